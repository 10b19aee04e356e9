//! edge keeps a Kubernetes gateway working when the cloud is gone.
pub mod sys;
