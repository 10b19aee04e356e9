//! References, manifests, the upstream registry client.
