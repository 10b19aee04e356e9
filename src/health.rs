//! What each part reports about itself.
