//! Platforms: which image of an index a machine runs.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// Operating system, architecture and variant, such as `linux/arm/v7`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `arm64`, in Go's words.
    pub architecture: String,
    /// `v8`; empty where none is written.
    #[serde(default)]
    pub variant: String,
}

impl Platform {
    /// That of this machine.
    pub fn own() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: String::new() }
    }

    /// With the variant that is meant where none is written: arm64 is v8, arm is v7.
    fn normal(&self) -> (&str, &str, &str) {
        let architecture = match self.architecture.as_str() {
            "aarch64" => "arm64",
            "x86_64" => "amd64",
            other => other,
        };
        let variant = match (architecture, self.variant.as_str()) {
            ("arm64", "" | "8") => "v8",
            ("arm", "" | "7") => "v7",
            ("arm", "6") => "v6",
            ("arm", "5") => "v5",
            ("amd64", "v1") => "",
            (_, variant) => variant,
        };
        (&self.os, architecture, variant)
    }

    /// How well a machine of this platform runs images for `image`: the lower the better, `None` not at
    /// all. A v7 machine runs v6 and v5 too; an arm64 one is not asked to run arm images.
    pub fn rank(&self, image: &Platform) -> Option<u32> {
        let (mine, theirs) = (self.normal(), image.normal());
        if mine == theirs {
            return Some(0);
        }
        if (mine.0, mine.1) != (theirs.0, theirs.1) || !matches!(mine.1, "arm" | "amd64") {
            return None;
        }
        let level = |variant: &str| match variant {
            "" => Some(1),
            other => other.strip_prefix('v')?.parse::<u32>().ok(),
        };
        level(mine.2)?.checked_sub(level(theirs.2)?).filter(|step| *step > 0)
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, ""),
            [os, architecture, variant] => (os, architecture, variant),
            _ => return Err(format!("`{text}` is not a platform hint: write one such as `linux/arm64`")),
        };
        if os.is_empty() || architecture.is_empty() {
            return Err(format!("`{text}` is not a platform hint: write one such as `linux/arm64`"));
        }
        Ok(Self { os: os.into(), architecture: architecture.into(), variant: variant.into() })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A configuration may leave both out, as that of an image that is only data does.
        let said = |part: &'_ str| if part.is_empty() { "unknown".to_owned() } else { part.to_owned() };
        write!(f, "{}/{}", said(&self.os), said(&self.architecture))?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_unknown() {
        let nothing = Platform { os: String::new(), architecture: String::new(), variant: String::new() };
        assert_eq!(nothing.to_string(), "unknown/unknown");
        assert_eq!("linux/arm/v7".parse::<Platform>().unwrap().to_string(), "linux/arm/v7");
    }

    #[test]
    fn machines_run_what_they_can() {
        for (machine, image, rank) in [
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm64/v8", "linux/arm64", Some(0)),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v7", "linux/arm", Some(0)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm64", "linux/arm/v7", None),
            ("linux/amd64", "linux/amd64/v3", None),
            ("linux/amd64/v3", "linux/amd64", Some(2)),
            ("linux/arm64", "windows/arm64", None),
            ("linux/arm64", "unknown/unknown", None),
        ] {
            let (machine, image): (Platform, Platform) = (machine.parse().unwrap(), image.parse().unwrap());
            assert_eq!(machine.rank(&image), rank, "{machine} runs {image}");
        }
    }
}
