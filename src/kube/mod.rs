//! The few Kubernetes facts edge needs: paths, the protobuf encoding, selectors, patches, tables. Pure: no socket, no file.
