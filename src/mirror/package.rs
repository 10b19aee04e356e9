//! The images that a packed chart refers to, as far as that can be known without rendering it. Pure.
//!
//! Rendering is Helm's, in Go's templates; so what is read is what a person would look at: the annotation
//! `helm.sh/images`, the values, and lines of templates that name an image literally. What comes from values and
//! templates is a guess until it was asked for upstream.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use regex_lite::Regex;
use serde_json::Value;

use super::charts::Dependency;
use super::found::Found;
use crate::oci::{Reference, chart, is_host};
use crate::sys::yaml;

/// Bytes of a package that are looked through, unpacked, and of one file in it.
const LOOKED_THROUGH: u64 = 64 << 20;
const LARGEST_FILE: u64 = 1 << 20;
/// Bytes of the names that are taken of one package, with where they stand; of real charts it is some thousands.
const MOST_NAMED: usize = 1 << 20;
/// Annotations that list images: Helm's, and Artifact Hub's.
const ANNOTATIONS: [&str; 2] = ["helm.sh/images", "artifacthub.io/images"];

/// What the files of one chart in a package say: of itself, or of one in its `charts` folder. The files are not kept,
/// as there may be much in them.
#[derive(Default)]
struct Parts {
    version: String,
    dependencies: Value,
    annotated: Vec<Found>,
    values: Vec<(Found, Tag)>,
    templates: Vec<Found>,
    /// Which of them are not what they should be, and why not.
    unread: Vec<String>,
}

/// What an image in the values has for a tag.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    /// What it says, if anything.
    Own,
    /// The version of what the chart installs.
    OfChart,
}

/// What a package refers to.
pub(super) struct Referred {
    pub(super) found: Vec<Found>,
    /// Files that cannot be read, so that what they refer to is not known.
    pub(super) unread: Vec<String>,
}

/// What the chart in `package` refers to.
///
/// # Errors
/// That it is no package.
pub(super) fn images(package: &[u8]) -> Result<Referred, String> {
    let (mut found, mut unread): (Vec<Found>, Vec<String>) = Default::default();
    let mut met = BTreeSet::new();
    for (folder, parts) in read(package)? {
        unread.extend(parts.unread.iter().map(|why| format!("{folder}{why}")));
        found.extend(parts.found().filter(|one| met.insert(one.image.clone())));
    }
    Ok(Referred { found, unread })
}

/// What the chart in `package` depends on, from other repositories or its own.
///
/// # Errors
/// That it is no package.
pub(super) fn dependencies(package: &[u8]) -> Result<Vec<Dependency>, String> {
    let listed = read(package)?.remove("").map(|parts| parts.dependencies);
    let listed = listed.filter(|listed| !listed.is_null());
    listed.map_or_else(|| Ok(Vec::new()), |listed| serde_json::from_value(listed).map_err(|e| e.to_string()))
}

/// The charts of a package by their folder within it; the chart itself has the empty one.
fn read(package: &[u8]) -> Result<BTreeMap<String, Parts>, String> {
    let mut archive = chart::unpacked(package, LOOKED_THROUGH).map_err(|e| e.to_string())?;
    let mut charts: BTreeMap<String, Parts> = BTreeMap::new();
    let line =
        Regex::new(r#"(?m)^\s*(?:-\s+)?image:\s*["']?([^\s"'{}#]+)["']?\s*$"#).map_err(|e| e.to_string())?;
    let mut room = Room(Some(MOST_NAMED));
    for entry in archive.entries().map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some((folder, file)) = place(path.strip_prefix("./").unwrap_or(&path)) else { continue };
        let mut text = String::new();
        // A file that is no text is no concern of ours.
        if entry.take(LARGEST_FILE).read_to_string(&mut text).is_err() {
            continue;
        }
        let parts = charts.entry(folder.clone()).or_default();
        match file.as_str() {
            "Chart.yaml" => parts.chart(&folder, &text, &mut room),
            "values.yaml" => parts.values(&folder, &text, &mut room),
            template => parts.template(&format!("{folder}{template}"), &text, &line, &mut room),
        }
        if room.0.is_none() {
            return Err(format!("the images that it names take more than {MOST_NAMED} bytes"));
        }
    }
    Ok(charts)
}

/// The folder of the chart that a path belongs to, and the path in it, for files that are looked at.
fn place(path: &str) -> Option<(String, String)> {
    let (_, mut rest) = path.split_once('/')?;
    let mut folder = String::new();
    while let Some(below) = rest.strip_prefix("charts/") {
        let (name, after) = below.split_once('/')?;
        folder = format!("{folder}charts/{name}/");
        rest = after;
    }
    let template = rest.starts_with("templates/") && (rest.ends_with(".yaml") || rest.ends_with(".yml"));
    (template || rest == "Chart.yaml" || rest == "values.yaml").then(|| (folder, rest.to_owned()))
}

impl Parts {
    /// What a file says; nothing where it is empty, or is no YAML, which is noted.
    fn yaml(&mut self, file: &str, text: &str) -> Value {
        yaml::read::<Option<Value>>(text).map(Option::unwrap_or_default).unwrap_or_else(|why| {
            self.unread.push(format!("{file}: {why}"));
            Value::Null
        })
    }

    fn chart(&mut self, folder: &str, text: &str, room: &mut Room) {
        let mut chart = self.yaml("Chart.yaml", text);
        self.version = match &chart["appVersion"] {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        self.annotated.clear();
        for name in ANNOTATIONS {
            let listed = chart["annotations"][name].as_str().unwrap_or_default();
            let listed = self.yaml(&format!("Chart.yaml {name}"), listed);
            for entry in listed.as_array().into_iter().flatten() {
                let image = entry["image"].as_str().or_else(|| entry.as_str()).unwrap_or_default();
                self.annotated.extend(room.take(image, || format!("{folder}Chart.yaml {name}"), false));
            }
        }
        self.dependencies = chart.get_mut("dependencies").map(Value::take).unwrap_or_default();
    }

    fn values(&mut self, folder: &str, text: &str, room: &mut Room) {
        let (values, mut found) = (self.yaml("values.yaml", text), Vec::new());
        in_values(&values, &mut Vec::new(), &mut |path, image, tag| {
            let one = room.take(image, || format!("{folder}values.yaml {}", path.join(".")), true);
            found.extend(one.map(|one| (one, tag)));
        });
        self.values = found;
    }

    fn template(&mut self, file: &str, text: &str, line: &Regex, room: &mut Room) {
        for image in line.captures_iter(text).filter_map(|found| found.get(1)) {
            self.templates.extend(room.take(image.as_str(), || file.to_owned(), true));
        }
    }

    /// The images, now that all files were read.
    fn found(self) -> impl Iterator<Item = Found> {
        let Self { version, annotated, values, templates, .. } = self;
        let tagged = values.into_iter().map(move |(found, tag)| match tag {
            Tag::OfChart if !version.is_empty() => {
                Found { image: format!("{}:{version}", found.image), ..found }
            }
            _ => found,
        });
        let sound = |found: &Found| found.image.parse::<Reference>().is_ok();
        annotated.into_iter().chain(tagged.filter(sound)).chain(templates)
    }
}

/// Bytes that are left for what a package names; none once it named more.
struct Room(Option<usize>);

impl Room {
    /// An image and where it was found, if its name can be one.
    fn take(&mut self, image: &str, at: impl FnOnce() -> String, guessed: bool) -> Option<Found> {
        let left = self.0.filter(|_| image.parse::<Reference>().is_ok())?;
        let at = at();
        self.0 = left.checked_sub(image.len() + at.len());
        self.0.map(|_| Found { image: image.to_owned(), at, guessed })
    }
}

/// `{registry, repository, tag, digest}`, and texts named `image`.
fn in_values(value: &Value, path: &mut Vec<String>, tell: &mut dyn FnMut(&[String], &str, Tag)) {
    let Value::Object(fields) = value else {
        for (at, inner) in value.as_array().into_iter().flatten().enumerate() {
            path.push(at.to_string());
            in_values(inner, path, tell);
            path.pop();
        }
        return;
    };
    let text = |key: &str| match fields.get(key) {
        Some(Value::String(text)) => text.clone(),
        // A tag that somebody forgot to quote.
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    let named_so = path.last().is_some_and(|last| last.to_lowercase().ends_with("image"));
    let repository = text("repository");
    if !repository.is_empty() && (named_so || fields.contains_key("tag") || fields.contains_key("registry")) {
        let tag = text("tag");
        let digest = Some(text("digest")).filter(|digest| digest.contains(':')).unwrap_or_default();
        let of = if tag.is_empty() && digest.is_empty() { Tag::OfChart } else { Tag::Own };
        tell(path, &full(&text("registry"), &repository, &tag, &digest), of);
    }
    for (key, inner) in fields {
        path.push(key.clone());
        let is_image = key.to_lowercase().ends_with("image");
        if let Some(image) = inner.as_str().filter(|image| is_image && !image.is_empty()) {
            let last = image.rsplit('/').next().unwrap_or(image);
            let whole = last.contains([':', '@']);
            let beside = |key: &str| if whole { String::new() } else { text(key) };
            let tag = [beside("tag"), beside("imageTag")].into_iter().find(|tag| !tag.is_empty());
            // An image that names its host is of no other registry.
            let has_host = image.split_once('/').is_some_and(|(first, _)| is_host(first));
            let registry = Some(text("registry")).filter(|_| !has_host);
            let digest = Some(beside("digest")).filter(|digest| digest.contains(':')).unwrap_or_default();
            let image = full(&registry.unwrap_or_default(), image, &tag.unwrap_or_default(), &digest);
            tell(path, &image, Tag::Own);
        }
        in_values(inner, path, tell);
        path.pop();
    }
}

fn full(registry: &str, repository: &str, tag: &str, digest: &str) -> String {
    let host = if registry.is_empty() { String::new() } else { format!("{registry}/") };
    let tag = if tag.is_empty() || !digest.is_empty() { String::new() } else { format!(":{tag}") };
    let at = if digest.is_empty() { String::new() } else { format!("@{digest}") };
    format!("{host}{repository}{tag}{at}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(files: &[(&str, &str)]) -> Vec<u8> {
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gzip);
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn images_are_found_where_a_person_would_look_and_it_says_where() {
        let chart = "name: app\nversion: 1.0.0\nappVersion: '2.1'\nannotations:\n  helm.sh/images: |\n    - {name: a, image: q.io/listed:1}\n";
        let values = "image: {registry: q.io, repository: team/app, tag: ''}\nsidecarImage: q.io/side:3\nmetrics:\n  image: q.io/metrics\n  imageTag: 7\nrepository: https://git.example/x\nempty: {image: ''}\n";
        let template = "spec:\n  containers:\n  - image: \"q.io/literal:9\"\n  - image: {{ .Values.x }}\n";
        let package = pack(&[
            ("app/Chart.yaml", chart),
            ("app/values.yaml", values),
            ("app/templates/pod.yaml", template),
            ("app/charts/sub/Chart.yaml", "name: sub\nversion: 1\nappVersion: 5\n"),
            ("app/charts/sub/values.yaml", "image: {repository: q.io/sub}\n"),
            ("app/README.md", "image: q.io/no:1"),
        ]);
        let told: Vec<(String, String, bool)> =
            images(&package).unwrap().found.into_iter().map(|f| (f.image, f.at, f.guessed)).collect();
        let expected = [
            ("q.io/listed:1", "Chart.yaml helm.sh/images", false),
            ("q.io/team/app:2.1", "values.yaml image", true),
            ("q.io/metrics:7", "values.yaml metrics.image", true),
            ("q.io/side:3", "values.yaml sidecarImage", true),
            ("q.io/literal:9", "templates/pod.yaml", true),
            ("q.io/sub:5", "charts/sub/values.yaml image", true),
        ];
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (image, at, guessed) in expected {
            assert!(told.contains(&(image.into(), at.into(), guessed)), "{image} {at} in {told:?}");
        }
        assert!(images(b"no gzip").is_err());
    }

    #[test]
    fn a_key_that_stands_twice_is_taken_and_what_is_no_yaml_is_told() {
        let values = |text: &str| {
            let package =
                pack(&[("app/Chart.yaml", "name: app\nversion: 1.0.0\n"), ("app/values.yaml", text)]);
            let read = images(&package).unwrap();
            (read.found.into_iter().map(|f| f.image).collect::<Vec<_>>(), read.unread)
        };
        let twice = "a: {image: q.io/a:1}\nnote: x\nnote: y\n";
        assert_eq!(values(twice), (vec!["q.io/a:1".to_owned()], vec![]));
        for empty in ["", "# nothing\n", "---\n"] {
            assert_eq!(values(empty), (vec![], vec![]), "{empty:?}");
        }
        let (found, unread) = values("a: {image: q.io/a:1\nb: [\n");
        assert!(
            found.is_empty() && unread.len() == 1 && unread[0].starts_with("values.yaml: "),
            "{unread:?}"
        );
    }

    #[test]
    fn what_would_fill_the_memory_is_refused_and_what_is_long_is_looked_through() {
        let chart = ("app/Chart.yaml", "name: app\nversion: 1.0.0\n");
        let refused = |package: &[u8]| images(package).err().unwrap();
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gzip);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(60 << 20);
        header.set_cksum();
        tar.append(&header, std::io::repeat(b'a').take(60 << 20)).unwrap();
        let why = refused(&tar.into_inner().unwrap().finish().unwrap());
        assert!(why.contains("has 62914560 bytes"), "{why}");
        let lines =
            |count: usize| -> String { (0..count).map(|n| format!("image: q.io/a{n}:1\n")).collect() };
        let template = |text: &str| pack(&[chart, ("app/templates/a.yaml", text)]);
        assert_eq!(images(&template(&lines(5000))).unwrap().found.len(), 5000);
        let why = refused(&template(&lines(40_000)));
        assert!(why.contains("take more than 1048576 bytes"), "{why}");
        // Where an image stands may be long, too.
        let deep = format!("{{{}: ", "k".repeat(1000)).repeat(20);
        let values = format!("a: {deep}[{}]{}\n", "{image: q.io/a}, ".repeat(100), "}".repeat(20));
        let why = refused(&pack(&[chart, ("app/values.yaml", &values)]));
        assert!(why.contains("take more than 1048576 bytes"), "{why}");
    }

    /// As ingress-nginx writes it.
    #[test]
    fn the_parts_of_an_image_beside_its_name_belong_to_it() {
        let digest = format!("sha256:{}", "e5".repeat(32));
        let values = format!(
            "controller:\n  image: {{registry: registry.k8s.io, image: ingress-nginx/controller, tag: v1.11.3,\n\
             \x20   digest: '{digest}'}}\n\
             default:\n  image: {{registry: registry.k8s.io, image: defaultbackend-amd64, tag: '1.5'}}\n\
             said:\n  image: {{registry: q.io, image: 'q.io/app', tag: 2}}\n\
             whole:\n  image: {{registry: q.io, image: 'team/app:3', tag: 4, digest: '{digest}'}}\n\
             side:\n  image: {{registry: docker.io, sidecarImage: 'quay.io/side:3'}}\n"
        );
        let package =
            pack(&[("app/Chart.yaml", "name: app\nversion: 1.0.0\n"), ("app/values.yaml", &values)]);
        let mut found: Vec<String> = images(&package).unwrap().found.into_iter().map(|f| f.image).collect();
        found.sort();
        let expected = [
            "q.io/app:2".to_owned(),
            "q.io/team/app:3".to_owned(),
            "quay.io/side:3".to_owned(),
            "registry.k8s.io/defaultbackend-amd64:1.5".to_owned(),
            format!("registry.k8s.io/ingress-nginx/controller@{digest}"),
        ];
        assert_eq!(found, expected);
    }
}
