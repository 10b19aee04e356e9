//! Blobs by digest, refs, generations, gc (store.db).
