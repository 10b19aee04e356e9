//! TLS, passwords and tokens: served to real clients, and shown to a real upstream with an authority of its own.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;

use crate::command::Done;
use crate::registry_clients::{layout, tool};
use crate::registry_daemon::Daemon;
use crate::registry_pull::DockerRegistry;
use crate::support::Authority;

fn secret(daemon: &Daemon, below: &str, text: &str) -> String {
    let path = daemon.place.write(below, text);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path.display().to_string()
}

fn done(program: impl AsRef<std::ffi::OsStr>, folder: &Path, arguments: &[&str]) -> Done {
    Done::of(Command::new(program).args(arguments).env("HOME", folder).output().unwrap())
}

/// Where the registry is, without a scheme.
fn address(daemon: &Daemon) -> String {
    daemon.url().replace("http://", "")
}

#[test]
fn tls_passwords_and_tokens_are_asked_of_those_who_push() {
    let daemon = Daemon::start("");
    let folder = daemon.place.folder.path().to_owned();
    let htpasswd = secret(&daemon, "etc/htpasswd", &format!("ann:{}\n", bcrypt::hash("secret", 4).unwrap()));
    let tokens = secret(&daemon, "etc/tokens", "t0ken\n");
    let keys =
        format!("push = true\nlocal-certificate = true\nhtpasswd = \"{htpasswd}\"\ntokens = \"{tokens}\"\n");
    daemon.configure(&keys);
    daemon.reload();
    let ca = daemon.place.path("state/pki/ca.crt").display().to_string();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let code = |arguments: &[&str]| {
        let at = address(&daemon);
        let url = format!("https://{at}/v2/a/blobs/uploads/");
        let all = [&["-s", "-o", "/dev/null", "-w", "%{http_code}"], arguments, &[&url]].concat();
        done("curl", &folder, &all).out
    };
    while code(&["--cacert", &ca, "-X", "POST"]) != "401" {
        assert!(std::time::Instant::now() < until, "{}", daemon.log());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(code(&["-X", "POST"]), "000", "another authority's certificate is not taken");
    assert_eq!(code(&["--cacert", &ca, "-X", "POST", "-u", "ann:wrong"]), "401");
    assert_eq!(code(&["--cacert", &ca, "-X", "POST", "-u", "ann:secret"]), "202");
    assert_eq!(code(&["--cacert", &ca, "-X", "POST", "-H", "Authorization: Bearer t0ken"]), "202");
    assert_eq!(code(&["--cacert", &ca, "-X", "POST", "-H", "Authorization: Bearer other"]), "401");

    // skopeo and crane, with the authority and a password.
    layout(&folder.join("layout"));
    let (from, at) = (format!("oci:{}", folder.join("layout").display()), address(&daemon));
    std::fs::create_dir(folder.join("certs")).unwrap();
    std::fs::copy(&ca, folder.join("certs/ca.crt")).unwrap();
    let certs = folder.join("certs").display().to_string();
    let to = format!("docker://{at}/my/app:1");
    let refused = done("skopeo", &folder, &["copy", "--dest-cert-dir", &certs, &from, &to]);
    assert!(refused.code != 0 && refused.err.contains("unauthorized"), "{refused:?}");
    done("skopeo", &folder, &["copy", "--dest-cert-dir", &certs, "--dest-creds", "ann:secret", &from, &to])
        .good();
    let pulled = done("skopeo", &folder, &["inspect", "--cert-dir", &certs, &to]).good();
    assert!(pulled.out.contains("arm64"));
    let crane = tool("crane");
    done(&crane, &folder, &["auth", "login", &at, "-u", "ann", "-p", "secret"]).good();
    let trusting = |arguments: &[&str]| {
        Done::of(
            Command::new(&crane)
                .args(arguments)
                .env("HOME", &folder)
                .env("SSL_CERT_FILE", &ca)
                .output()
                .unwrap(),
        )
    };
    trusting(&["copy", &format!("{at}/my/app:1"), &format!("{at}/my/app:2")]).good();
    assert_eq!(trusting(&["ls", &format!("{at}/my/app")]).good().out, "1\n2\n");
}

/// A token server as the specification of docker's tokens has it: ann gets a token for what she asks for, by her password or
/// by an identity token; others none.
pub fn token_server(authority: &Authority, folder: &Path) -> (u16, String) {
    let pair = authority.server(&["tokens", "127.0.0.1"]).unwrap();
    let bundle = folder.join("signer.crt");
    std::fs::write(&bundle, &pair.certificate).unwrap();
    let der = |pem: &str| {
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        STANDARD.decode(body).unwrap()
    };
    let (certificate, key) = (STANDARD.encode(der(&pair.certificate)), der(&pair.key));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let known = head
                .to_lowercase()
                .contains(&format!("authorization: basic {}", STANDARD.encode("ann:secret").to_lowercase()));
            // OAuth 2: the form is the body.
            let length =
                head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
            let mut form = vec![0; if head.starts_with("POST ") { length.unwrap_or(0) } else { 0 }];
            let _ = stream.read_exact(&mut form);
            let form = String::from_utf8_lossy(&form).into_owned();
            let identity =
                form.contains("grant_type=refresh_token") && form.contains("refresh_token=1dent1ty");
            let asked = match form.is_empty() {
                true => head.split_whitespace().nth(1).unwrap_or_default().to_owned(),
                false => format!("/token?{form}"),
            };
            let (status, body) = match (known, identity) {
                (true, false) => ("200 OK", json!({"token": token(&asked, &certificate, &key)}).to_string()),
                (_, true) => {
                    ("200 OK", json!({"access_token": token(&asked, &certificate, &key)}).to_string())
                }
                _ => ("401 Unauthorized", "{}".to_owned()),
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
        }
    });
    (port, bundle.display().to_string())
}

fn token(path: &str, certificate: &str, key: &[u8]) -> String {
    let url = url::Url::parse(&format!("http://x{path}")).unwrap();
    let scope = url.query_pairs().find(|(key, _)| key == "scope").map(|(_, value)| value.into_owned());
    let scope = scope.unwrap_or_default();
    let parts: Vec<&str> = scope.split(':').collect();
    let actions: Vec<&str> = parts.last().copied().unwrap_or_default().split(',').collect();
    let access = json!([{"type": "repository", "name": parts.get(1), "actions": actions}]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"iss": "edge-test", "aud": "far", "sub": "ann", "jti": "1", "access": access,
                        "nbf": now - 60, "iat": now, "exp": now + 300});
    let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [certificate]});
    let text = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let random = ring::rand::SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key, &random).unwrap();
    let signature = key.sign(&random, text.as_bytes()).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_with_a_private_authority_and_tokens_is_pulled_from() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("far").unwrap();
    let (port, bundle) = token_server(&authority, folder.path());
    let auth = format!(
        "auth: {{token: {{realm: 'http://127.0.0.1:{port}/token', service: far, issuer: edge-test, rootcertbundle: '{bundle}'}}}}\n"
    );
    let upstream = DockerRegistry::start_secure(folder.path(), &authority, &auth).await;
    layout(&folder.path().join("layout"));
    let pushed = Command::new("skopeo")
        .args(["copy", "--dest-tls-verify=false", "--dest-creds", "ann:secret"])
        .arg(format!("oci:{}", folder.path().join("layout").display()))
        .arg(format!("docker://127.0.0.1:{}/team/app:1", upstream.port))
        .output()
        .unwrap();
    assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));

    let ca = folder.path().join("ca.crt");
    std::fs::write(&ca, authority.certificate()).unwrap();
    let row = |ca: &str| {
        format!(
            "[[registry.upstreams]]\nhost = \"registry.far\"\nurl = \"https://127.0.0.1:{}\"\n{ca}",
            upstream.port
        )
    };
    let with_ca = row(&format!("ca = \"{}\"\n", ca.display()));
    let without = row("");
    tokio::task::spawn_blocking(move || {
        let daemon = Daemon::start(&without);
        let pull = |expected: &str| {
            let url = format!("{}/v2/team/app/manifests/1?ns=registry.far", daemon.url());
            let arguments = ["-s", "-o", "/dev/null", "-w", "%{http_code}", &url];
            let got = done("curl", daemon.place.folder.path(), &arguments).out;
            assert_eq!(got, expected, "{}", daemon.log());
        };
        pull("404");
        assert!(
            daemon.log().contains("UnknownIssuer") || daemon.log().contains("certificate"),
            "{}",
            daemon.log()
        );
        // The same with the authority, and still without a credential.
        let restart = |registry: &str| {
            daemon.configure(registry);
            daemon.reload();
            let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while daemon.wait_part("registry", "good").is_empty() {
                assert!(std::time::Instant::now() < until);
            }
        };
        restart(&with_ca);
        pull("404");
        let config =
            secret(&daemon, "etc/docker.json", r#"{"auths":{"registry.far":{"auth":"YW5uOnNlY3JldA=="}}}"#);
        restart(&format!("docker-config = \"{config}\"\n{with_ca}"));
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let done =
                daemon.place.run(&["image", "pull", "registry.far/team/app:1", "--platform", "linux/arm64"]);
            if done.code == 0 {
                break;
            }
            assert!(std::time::Instant::now() < until, "{done:?} {}", daemon.log());
        }
        pull("200");
        let log = daemon.log();
        assert!(!log.contains("secret") && !log.contains("YW5u"), "no credential is logged");
    })
    .await
    .unwrap();
}
