//! edge.toml and snap keys to Config.
