//! Writes the Rust types of the gRPC calls that edge makes, and of nothing else: the definitions
//! are cut down to the methods in `WANTED` and to the messages those reach, before code is made.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::process::Command;

use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};

const WANTED: [&str; 18] = [
    ".runtime.v1.RuntimeService/Version",
    ".runtime.v1.RuntimeService/Status",
    ".runtime.v1.RuntimeService/ListPodSandbox",
    ".runtime.v1.RuntimeService/PodSandboxStatus",
    ".runtime.v1.RuntimeService/StopPodSandbox",
    ".runtime.v1.RuntimeService/RemovePodSandbox",
    ".runtime.v1.RuntimeService/ListContainers",
    ".runtime.v1.RuntimeService/ContainerStatus",
    ".runtime.v1.RuntimeService/StopContainer",
    ".runtime.v1.RuntimeService/RemoveContainer",
    ".runtime.v1.RuntimeService/Exec",
    ".runtime.v1.ImageService/ListImages",
    ".runtime.v1.ImageService/ImageStatus",
    ".runtime.v1.ImageService/PullImage",
    ".runtime.v1.ImageService/RemoveImage",
    ".containerd.services.images.v1.Images/List",
    ".containerd.services.images.v1.Images/Update",
    ".containerd.services.version.v1.Version/Version",
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [protos, out, sources @ ..] = arguments.as_slice() else {
        return Err("usage: protogen PROTOS OUT SOURCE...".into());
    };
    let mut set = parse(Path::new(protos))?;
    cut(&mut set);
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .disable_comments(["."])
        .out_dir(out)
        .compile_fds(set)?;
    head(Path::new(out), &sources.join(" and "))
}

fn parse(protos: &Path) -> Result<FileDescriptorSet, Box<dyn Error>> {
    let set = protos.join("set.bin");
    let api = protos.join("github.com/containerd/containerd/api/services");
    let ran = Command::new("protoc")
        .arg(format!("--descriptor_set_out={}", set.display()))
        .arg("--include_imports")
        .arg(format!("--proto_path={}", protos.display()))
        .arg(protos.join("runtime/v1.proto"))
        .arg(protos.join(api.join("images/v1/images.proto")))
        .arg(protos.join(api.join("version/v1/version.proto")))
        .status()?;
    if !ran.success() {
        return Err("protoc failed".into());
    }
    Ok(FileDescriptorSet::decode(std::fs::read(set)?.as_slice())?)
}

fn cut(set: &mut FileDescriptorSet) {
    let mut needed = BTreeSet::new();
    for file in &mut set.file {
        let package = file.package().to_owned();
        for service in &mut file.service {
            let name = service.name().to_owned();
            service.method.retain(|m| WANTED.contains(&format!(".{package}.{name}/{}", m.name()).as_str()));
            for method in &service.method {
                needed.extend([method.input_type().to_owned(), method.output_type().to_owned()]);
            }
        }
        file.service.retain(|s| !s.method.is_empty());
    }
    while grow(set, &mut needed) {}
    for file in &mut set.file {
        let package = file.package().to_owned();
        file.message_type.retain(|m| reaches(&needed, &format!(".{package}.{}", m.name())));
        file.enum_type.retain(|e| needed.contains(&format!(".{package}.{}", e.name())));
    }
    set.file.retain(|f| !f.service.is_empty() || !f.message_type.is_empty());
}

/// Adds what the needed messages refer to; true if that was anything new.
fn grow(set: &FileDescriptorSet, needed: &mut BTreeSet<String>) -> bool {
    let before = needed.len();
    for file in &set.file {
        for message in &file.message_type {
            let name = format!(".{}.{}", file.package(), message.name());
            if reaches(needed, &name) {
                refers(message, needed);
            }
        }
    }
    needed.len() > before
}

fn refers(message: &DescriptorProto, needed: &mut BTreeSet<String>) {
    needed.extend(message.field.iter().filter(|f| f.type_name.is_some()).map(|f| f.type_name().to_owned()));
    message.nested_type.iter().for_each(|nested| refers(nested, needed));
}

/// A message is kept when it, or one nested in it, is needed.
fn reaches(needed: &BTreeSet<String>, name: &str) -> bool {
    needed.iter().any(|n| n == name || n.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

fn head(out: &Path, sources: &str) -> Result<(), Box<dyn Error>> {
    for entry in std::fs::read_dir(out)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "rs") && path.file_name().is_some_and(|n| n != "mod.rs") {
            let code = std::fs::read_to_string(&path)?;
            let head = format!("// Made by scripts/protos from {sources} (Apache-2.0). Do not edit.\n");
            std::fs::write(&path, head + &code)?;
        }
    }
    Ok(())
}
