//! The OCI registry and chart repository on one listener.
