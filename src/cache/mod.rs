//! Kubernetes objects on disk (cache.db): one writer, many readers.
