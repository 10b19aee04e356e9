//! CRI and containerd gRPC clients.
