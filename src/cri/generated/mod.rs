//! What `scripts/protos` made: CRI v1 and containerd's own services, cut to what edge calls.
#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    reason = "generated: the .proto files are the documentation"
)]

/// CRI.
pub mod runtime {
    include!("runtime.v1.rs");
}

/// containerd.
pub mod containerd {
    /// Types that its services share.
    pub mod types {
        include!("containerd.types.rs");
    }

    /// Its services.
    pub mod services {
        /// Images.
        pub mod images {
            /// Version 1.
            pub mod v1 {
                include!("containerd.services.images.v1.rs");
            }
        }
        /// Version.
        pub mod version {
            /// Version 1.
            pub mod v1 {
                include!("containerd.services.version.v1.rs");
            }
        }
    }
}
