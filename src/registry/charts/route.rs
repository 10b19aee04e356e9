//! What a path means to a chart repository. Pure.

use percent_encoding::percent_decode_str;

use crate::oci::chart::is_path_part;

/// The endpoints. `repository` is the path before them, empty for the repository at the root.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::registry) enum ChartRoute {
    Health,
    Index { repository: String },
    File { repository: String, stem: String, provenance: bool },
    List { repository: String },
    Name { repository: String, name: String },
    Version { repository: String, name: String, version: String },
    Provenance { repository: String },
}

impl ChartRoute {
    /// `None` for what is no path of charts.
    pub(in crate::registry) fn parse(path: &str) -> Option<Self> {
        let decoded = percent_decode_str(path).decode_utf8().ok()?;
        let parts: Vec<&str> = decoded.trim_start_matches('/').trim_end_matches('/').split('/').collect();
        if !parts.iter().all(|part| is_path_part(part)) || parts.first() == Some(&"v2") {
            return None;
        }
        match parts[..] {
            ["health"] => Some(Self::Health),
            ["api", ref rest @ ..] => Self::api(rest),
            [ref repository @ .., "index.yaml"] => Some(Self::Index { repository: repository.join("/") }),
            [ref repository @ .., "charts", file] => {
                let (file, provenance) = match file.strip_suffix(".prov") {
                    Some(file) => (file, true),
                    None => (file, false),
                };
                let stem = file.strip_suffix(".tgz")?.to_owned();
                Some(Self::File { repository: repository.join("/"), stem, provenance })
            }
            _ => None,
        }
    }

    /// The methods that are done here, as `Allow` has them.
    pub(in crate::registry) fn methods(&self) -> &'static str {
        match self {
            Self::List { .. } => "GET, HEAD, POST",
            Self::Provenance { .. } => "POST",
            Self::Version { .. } => "GET, HEAD, DELETE",
            _ => "GET, HEAD",
        }
    }

    fn api(parts: &[&str]) -> Option<Self> {
        if let [repository @ .., "prov"] = parts {
            return Some(Self::Provenance { repository: repository.join("/") });
        }
        // The first "charts": a repository of that name is not possible, a chart of that name is.
        let at = parts.iter().position(|part| *part == "charts")?;
        let repository = parts[..at].join("/");
        match parts[at + 1..] {
            [] => Some(Self::List { repository }),
            [name] => Some(Self::Name { repository, name: name.to_owned() }),
            [name, version] => {
                Some(Self::Version { repository, name: name.to_owned(), version: version.to_owned() })
            }
            _ => None,
        }
    }
}

/// Whether a chart repository at this path can be asked for; the empty one is at the root.
pub fn is_repository(path: &str) -> bool {
    let index = if path.is_empty() { "/index.yaml".to_owned() } else { format!("/{path}/index.yaml") };
    ChartRoute::parse(&index) == Some(ChartRoute::Index { repository: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_what_can_be_asked_for() {
        for good in ["", "team", "team/stable", "Team"] {
            assert!(is_repository(good), "{good}");
        }
        for bad in ["../x", "a/../b", ".", "/a", "a/", "a//b", "api", "v2/a", "%2e%2e"] {
            assert!(!is_repository(bad), "{bad}");
        }
    }

    #[test]
    fn repositories_are_told_by_their_path() {
        let parse = |path: &str| ChartRoute::parse(path).unwrap();
        assert_eq!(parse("/index.yaml"), ChartRoute::Index { repository: String::new() });
        assert_eq!(parse("/a/b/index.yaml"), ChartRoute::Index { repository: "a/b".into() });
        assert_eq!(parse("/api/charts"), ChartRoute::List { repository: String::new() });
        assert_eq!(
            parse("/api/charts/charts/1.0.0%2Bb"),
            ChartRoute::Version {
                repository: String::new(),
                name: "charts".into(),
                version: "1.0.0+b".into()
            }
        );
        assert_eq!(
            parse("/a/charts/x-1.0.tgz.prov"),
            ChartRoute::File { repository: "a".into(), stem: "x-1.0".into(), provenance: true }
        );
        for path in [
            "/",
            "/v2/charts/x.tgz",
            "/charts/../x.tgz",
            "/charts/x.zip",
            "/api",
            "/a//index.yaml",
            "/%2e%2e/index.yaml",
        ] {
            assert_eq!(ChartRoute::parse(path), None, "{path}");
        }
    }
}
