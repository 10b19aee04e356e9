//! Which of the tags and versions that are listed upstream a rule wants. Pure.

use regex_lite::Regex;
use semver::{Version, VersionReq};

use super::order;
use super::settings::TagFilter;

/// A rule's tags, ready to choose.
#[derive(Clone, Debug)]
pub struct TagChooser {
    exact: Vec<String>,
    glob: Option<Regex>,
    regex: Option<Regex>,
    range: Option<VersionReq>,
    latest: Option<usize>,
    written: TagFilter,
}

/// A tag that a rule wants, and by what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The tag.
    pub tag: String,
    /// Such as `semver >=1.25`.
    pub why: String,
}

impl TagChooser {
    /// # Errors
    /// The field of the filter that cannot be used, and why.
    pub fn compile(filter: &TagFilter) -> Result<Self, (String, String)> {
        for (at, tag) in filter.exact.iter().enumerate() {
            if !crate::oci::is_tag(tag) {
                return Err((format!("exact[{at}]"), format!("`{tag}` is not a tag")));
            }
        }
        let named = |field: &'static str| move |why: String| (field.to_owned(), why);
        if filter.latest == Some(0) {
            return Err(("latest".into(), "`0` chooses nothing".into()));
        }
        Ok(Self {
            exact: filter.exact.clone(),
            glob: filter.glob.as_deref().map(glob).transpose().map_err(named("glob"))?,
            regex: filter.regex.as_deref().map(pattern).transpose().map_err(named("regex"))?,
            range: filter.semver.as_deref().map(range).transpose().map_err(named("semver"))?,
            latest: filter.latest.map(|n| n as usize),
            written: filter.clone(),
        })
    }

    /// Whether it takes the list of tags to know.
    pub fn needs_listing(&self) -> bool {
        self.glob.is_some() || self.regex.is_some() || self.range.is_some() || self.latest.is_some()
    }

    /// The tags that are wanted: the exact ones whether listed or not, then those of `listed` that fit.
    pub fn choose(&self, listed: &[String]) -> Vec<Chosen> {
        let mut chosen: Vec<Chosen> =
            self.exact.iter().map(|tag| Chosen { tag: tag.clone(), why: "exact".into() }).collect();
        if !self.needs_listing() {
            return chosen;
        }
        let mut fit: Vec<&String> = listed.iter().filter(|tag| self.fits(tag).is_ok()).collect();
        order::newest(&mut fit, |tag| tag, self.latest, !self.is_plain());
        let why = self.why();
        for tag in fit {
            if !self.exact.contains(tag) {
                chosen.push(Chosen { tag: tag.clone(), why: why.clone() });
            }
        }
        chosen
    }

    /// Whether a tag fits the patterns, `latest` aside; else which it does not.
    ///
    /// # Errors
    /// The pattern that leaves it out.
    pub fn fits(&self, tag: &str) -> Result<(), String> {
        if self.exact.iter().any(|exact| exact == tag) {
            return Ok(());
        }
        if !self.needs_listing() {
            return Err(format!("`{tag}` is none of {}", self.exact.join(", ")));
        }
        // The tags under which signatures and other attachments lie come with their images.
        if is_attachment(tag) {
            return Err("it is attached to another image, and comes with that".into());
        }
        let written = &self.written;
        let say = |kind: &str, text: &Option<String>| {
            format!("`{tag}` does not fit {kind} {}", text.as_deref().unwrap_or_default())
        };
        if self.glob.as_ref().is_some_and(|glob| !glob.is_match(tag)) {
            return Err(say("glob", &written.glob));
        }
        if self.regex.as_ref().is_some_and(|regex| !regex.is_match(tag)) {
            return Err(say("regex", &written.regex));
        }
        let version = version(tag);
        if self.range.as_ref().is_some_and(|range| !version.as_ref().is_some_and(|v| range.matches(v))) {
            return Err(say("semver", &written.semver));
        }
        if self.is_plain() && !order::is_version(tag) {
            return Err(format!("`{tag}` is no version, of which the newest are taken"));
        }
        Ok(())
    }

    /// Whether nothing but a number of the newest is asked for.
    fn is_plain(&self) -> bool {
        self.glob.is_none() && self.regex.is_none() && self.range.is_none()
    }

    fn why(&self) -> String {
        let written = &self.written;
        let mut parts = Vec::new();
        for (kind, text) in [("glob", &written.glob), ("regex", &written.regex), ("semver", &written.semver)]
        {
            parts.extend(text.as_ref().map(|text| format!("{kind} {text}")));
        }
        parts.extend(written.latest.map(|n| format!("latest {n}")));
        parts.join(", ")
    }
}

/// Whether a tag belongs to the scheme by which signatures and referrers hang on an image: `sha256-<hex>...`.
pub fn is_attachment(tag: &str) -> bool {
    attached_to(tag).is_some()
}

/// The digest in `sha256-<hex>`, `sha256-<hex>.sig` and their like.
pub fn attached_to(tag: &str) -> Option<String> {
    let hex = tag.strip_prefix("sha256-")?.split('.').next()?;
    let is_hex = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| format!("sha256:{hex}"))
}

/// A pattern of the shell for a whole text: `*`, `?`, `[a-z]`, `{a,b}`.
///
/// # Errors
/// Why it is none.
pub fn glob(text: &str) -> Result<Regex, String> {
    let mut out = String::from("^(?:");
    let mut depth = 0;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            '[' => {
                let class: String = chars.by_ref().take_while(|c| *c != ']').collect();
                let class = class.strip_prefix('!').map_or_else(|| class.clone(), |rest| format!("^{rest}"));
                out.push_str(&format!("[{}]", class.replace('\\', "\\\\").replace('[', "\\[")));
            }
            '{' => {
                depth += 1;
                out.push_str("(?:");
            }
            '}' if depth > 0 => {
                depth -= 1;
                out.push(')');
            }
            ',' if depth > 0 => out.push('|'),
            c => out.push_str(&regex_lite::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    out.push_str(")$");
    if depth > 0 {
        return Err(format!("`{text}` is not a glob: a `{{` is not closed"));
    }
    Regex::new(&out).map_err(|_| format!("`{text}` is not a glob such as `1.2*` or `{{a,b}}-?`"))
}

/// # Errors
/// Why it is none, on one line.
fn pattern(text: &str) -> Result<Regex, String> {
    let short = |e: regex_lite::Error| {
        let told = e.to_string();
        let last = told.lines().last().unwrap_or_default().trim();
        format!("`{text}` is not a regular expression: {}", last.strip_prefix("error: ").unwrap_or(last))
    };
    regex_lite::RegexBuilder::new(text).size_limit(1 << 20).build().map_err(short)
}

/// # Errors
/// Why it is none.
pub fn range(text: &str) -> Result<VersionReq, String> {
    VersionReq::parse(text)
        .map_err(|e| format!("`{text}` is not a range of versions such as `>=1.25, <2`: {e}"))
}

/// A whole version, with or without a `v`.
pub fn version(text: &str) -> Option<Version> {
    Version::parse(text.strip_prefix('v').unwrap_or(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(filter: TagFilter, listed: &[&str]) -> Vec<String> {
        let listed: Vec<String> = listed.iter().map(ToString::to_string).collect();
        let chooser = TagChooser::compile(&filter).unwrap();
        chooser.choose(&listed).into_iter().map(|chosen| chosen.tag).collect()
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn each_filter_takes_what_it_says() {
        let all = TagFilter::default;
        let signature = format!("sha256-{}.sig", "a".repeat(64));
        let listed = [
            "1.9.0",
            "1.10.0",
            "1.10.0-rc1",
            "v2.0.0",
            "latest",
            "1.10-alpine",
            "2024-02",
            signature.as_str(),
        ];
        for (filter, expected) in [
            (TagFilter { exact: vec!["x".into()], ..all() }, &["x"][..]),
            (TagFilter { glob: some("1.10*"), ..all() }, &["1.10.0", "1.10.0-rc1", "1.10-alpine"]),
            (TagFilter { glob: some("{latest,2024-??}"), ..all() }, &["latest", "2024-02"]),
            (TagFilter { glob: some("1.[0-9].0"), ..all() }, &["1.9.0"]),
            (TagFilter { regex: some("^v"), ..all() }, &["v2.0.0"]),
            (TagFilter { semver: some(">=1.9, <3"), ..all() }, &["1.9.0", "1.10.0", "v2.0.0"]),
            (TagFilter { semver: some(">=1.9"), latest: Some(1), ..all() }, &["v2.0.0"]),
            (TagFilter { latest: Some(2), ..all() }, &["v2.0.0", "1.10.0"]),
            (TagFilter { exact: vec!["latest".into()], latest: Some(1), ..all() }, &["latest", "v2.0.0"]),
            (
                TagFilter { glob: some("*"), regex: some("^1"), semver: some("*"), ..all() },
                &["1.9.0", "1.10.0"],
            ),
            (TagFilter { glob: some("20*"), latest: Some(1), ..all() }, &["2024-02"]),
            (TagFilter { glob: some("1.10*"), latest: Some(2), ..all() }, &["1.10.0", "1.10.0-rc1"]),
            (TagFilter { regex: some("^1.*rc"), latest: Some(2), ..all() }, &["1.10.0-rc1"]),
        ] {
            assert_eq!(chosen(filter.clone(), &listed), expected, "{filter:?}");
        }
    }

    #[test]
    fn the_newest_of_dates_and_of_long_versions_are_the_newest() {
        let latest = |n| TagFilter { latest: Some(n), ..TagFilter::default() };
        let dates = ["2024.12.20", "2025.01.05", "2025.01.05-arm", "2024.02.01", "2025", "latest"];
        assert_eq!(chosen(latest(2), &dates), ["2025.01.05", "2024.12.20"]);
        let long = ["9.0.0", "10.5.0.1", "10.5.0.1-dev", "10.5.0.0", "10.5"];
        assert_eq!(chosen(latest(3), &long), ["10.5.0.1", "10.5.0.0", "9.0.0"]);
        let flavours = ["1.27.4", "1.27.4-perl", "1.27.4-otel", "1.27.3", "1.27", "1", "1.28.0-rc1"];
        assert_eq!(chosen(latest(3), &flavours), ["1.27.4", "1.27.3"]);
        assert_eq!(chosen(latest(1), &["2.0.0-rc1", "2.0.0-rc2"]), ["2.0.0-rc2"]);
    }

    #[test]
    fn a_bad_filter_names_its_field() {
        for (filter, field) in [
            (TagFilter { regex: some("("), ..TagFilter::default() }, "regex"),
            (TagFilter { glob: some("{a"), ..TagFilter::default() }, "glob"),
            (TagFilter { glob: some("[z-a]"), ..TagFilter::default() }, "glob"),
            (TagFilter { semver: some("=>1"), ..TagFilter::default() }, "semver"),
            (TagFilter { latest: Some(0), ..TagFilter::default() }, "latest"),
            (TagFilter { exact: vec!["a b".into()], ..TagFilter::default() }, "exact[0]"),
        ] {
            let (found, why) = TagChooser::compile(&filter).unwrap_err();
            assert_eq!(found, field);
            assert!(!why.contains('\n'), "{why}");
        }
    }

    #[test]
    fn it_says_why_a_tag_is_left_out() {
        let filter = TagFilter { semver: some(">=2"), ..TagFilter::default() };
        let chooser = TagChooser::compile(&filter).unwrap();
        assert_eq!(chooser.fits("1.0.0"), Err("`1.0.0` does not fit semver >=2".into()));
        assert_eq!(chooser.fits("v2.1.0"), Ok(()));
    }
}
