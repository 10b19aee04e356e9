//! The one owner of Online and Offline.
