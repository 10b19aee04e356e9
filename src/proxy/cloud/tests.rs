//! Every way in which a kubeconfig can be wrong, and that none of its secrets comes out.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::sys::durable;
use crate::trust::ca::{LocalCa, Pair};

struct Cloud {
    folder: tempfile::TempDir,
    ca: LocalCa,
}

const TOKEN: &str = "s3cr3t-token";

impl Cloud {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = LocalCa::open_or_create(&folder.path().join("pki")).unwrap();
        Self { folder, ca }
    }

    fn node(&self) -> Pair {
        self.ca.issue_client("system:node:ship-7", "system:nodes").unwrap()
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        durable::folder(path.parent().unwrap(), 0o700).unwrap();
        durable::write(&path, text.as_bytes(), 0o600).unwrap();
        path
    }

    fn read(&self, cluster: &str, user: &str) -> Result<Credentials, Error> {
        let path = self.file("kubeconfig", &kubeconfig(cluster, user));
        Credentials::read(&path)
    }

    fn authority(&self) -> String {
        format!("certificate-authority-data: {}", STANDARD.encode(self.ca.ca_pem()))
    }
}

fn kubeconfig(cluster: &str, user: &str) -> String {
    let indent = |text: &str| text.lines().map(|l| format!("    {l}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- name: c\n  context: {{cluster: k, user: u}}\n\
         clusters:\n- name: k\n  cluster:\n{}users:\n- name: u\n  user:\n{}",
        indent(cluster),
        indent(user)
    )
}

fn inline(pair: &Pair) -> String {
    format!(
        "client-certificate-data: {}\nclient-key-data: {}",
        STANDARD.encode(&pair.chain),
        STANDARD.encode(&pair.key)
    )
}

#[test]
fn inline_data_files_and_one_file_for_both_read_the_same() {
    let cloud = Cloud::new();
    let pair = cloud.node();
    let server = format!("server: https://10.0.0.1:6443\n{}", cloud.authority());
    let inline = cloud.read(&server, &inline(&pair)).unwrap();
    assert_eq!(inline.node_name(), Some("ship-7"));
    assert_eq!(inline.address(), ("10.0.0.1", 6443));
    assert_eq!(inline.files, [cloud.folder.path().join("kubeconfig")]);

    cloud.file("sub/both.pem", &format!("{}{}", pair.chain, pair.key));
    cloud.file("ca.crt", cloud.ca.ca_pem());
    let files = cloud
        .read(
            "server: https://10.0.0.1:6443\ncertificate-authority: ca.crt",
            "client-certificate: sub/both.pem\nclient-key: sub/both.pem",
        )
        .unwrap();
    assert_eq!(files.client, inline.client, "the key is not part of the chain");
    assert_eq!(files.authority_pem, inline.authority_pem);
    let at = |name: &str| cloud.folder.path().join(name);
    assert_eq!(files.files, [at("kubeconfig"), at("ca.crt"), at("sub/both.pem")]);
    let client = files.client.unwrap();
    assert!(!client.chain_pem.contains("PRIVATE KEY") && client.key_pem.contains("PRIVATE KEY"));
}

#[test]
fn data_wins_over_files_and_token_files_over_tokens() {
    let cloud = Cloud::new();
    cloud.file("token", "from-file\n");
    let server =
        format!("server: https://cloud.example\ncertificate-authority: /no/such\n{}", cloud.authority());
    let credentials = cloud.read(&server, &format!("token: {TOKEN}\ntokenFile: token")).unwrap();
    assert_eq!(credentials.token.as_deref(), Some("from-file"));
    assert_eq!(credentials.address(), ("cloud.example", 443));
    assert_eq!((credentials.node_name(), credentials.client.is_none()), (None, true));
}

#[test]
fn the_name_of_the_server_s_certificate_can_be_given() {
    let cloud = Cloud::new();
    let named = |extra: &str, server: &str| {
        let cluster = format!("server: {server}\n{}\n{extra}", cloud.authority());
        cloud.read(&cluster, &format!("token: {TOKEN}")).unwrap()
    };
    assert_eq!(
        named("tls-server-name: api.example", "https://10.0.0.1:6443").server_name.to_str(),
        "api.example"
    );
    let six = named("", "https://[fd00::1]:6443/prefix");
    assert_eq!((six.server_name.to_str().as_ref(), six.address()), ("fd00::1", ("fd00::1", 6443)));
    assert_eq!(six.server.path(), "/prefix");
}

#[test]
fn what_a_kubeconfig_may_not_be() {
    let cloud = Cloud::new();
    let (pair, other) = (cloud.node(), cloud.node());
    let (ca, user) = (cloud.authority(), inline(&pair));
    let server = format!("server: https://10.0.0.1:6443\n{ca}");
    let swapped = inline(&Pair { chain: pair.chain.clone(), key: other.key });
    let text = STANDARD.encode("no pem");
    let broken = STANDARD.encode("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let with = |extra: &str| format!("{server}\n{extra}");
    let user_with = |extra: &str| format!("{user}\n{extra}");
    let at = |address: &str| format!("server: {address}\n{ca}");
    let authority = |data: &str| format!("server: https://x\ncertificate-authority-data: {data}");
    let token = |token: &str| format!("token: {token}");
    let cases: Vec<(String, String, &str)> = vec![
        (ca.clone(), user.clone(), "has no `server`"),
        (at("http://10.0.0.1"), user.clone(), "server `http://10.0.0.1` is not `https`"),
        (at("10.0.0.1:6443"), user.clone(), "server `10.0.0.1:6443` is not"),
        (at("'https://a b'"), user.clone(), "server `https://a b` is not an address"),
        (at("https://u:p@host"), user.clone(), "is not a host and port"),
        (at("https://under_score!"), user.clone(), "server `https://under_score!`"),
        (at("7"), user.clone(), "`cluster.server` is not text"),
        ("server: https://x".into(), user.clone(), "has no `certificate-authority`"),
        ("server: https://x\ncertificate-authority: none.crt".into(), user.clone(), "none.crt`"),
        (authority("'???'"), user.clone(), "`cluster.certificate-authority-data` is not base64"),
        (authority(&text), user.clone(), "`certificate-authority` holds no certificate"),
        (authority(&broken), user.clone(), "`certificate-authority` holds a damaged certificate"),
        (
            with("insecure-skip-tls-verify: true"),
            user.clone(),
            "has `insecure-skip-tls-verify`, which edge refuses: anybody",
        ),
        (with("proxy-url: http://p"), user.clone(), "has `proxy-url`, which edge refuses"),
        (server.clone(), "exec: {command: aws}".into(), "has `exec`, which edge refuses: its program"),
        (server.clone(), "auth-provider: {name: gcp}".into(), "has `auth-provider`"),
        (server.clone(), "username: a\npassword: b".into(), "has `username`"),
        (server.clone(), user_with("as: root"), "has `as`"),
        (server.clone(), "{}".into(), "neither a client certificate with its key nor a token"),
        (server.clone(), user.lines().next().unwrap().into(), "has no `client-key`"),
        (server.clone(), user.lines().nth(1).unwrap().into(), "has no `client-certificate`"),
        (server.clone(), swapped, "its key does not belong to it"),
        (
            server.clone(),
            format!("client-certificate-data: {text}\nclient-key-data: {text}"),
            "`client-certificate` holds no certificate",
        ),
        (server.clone(), format!("client-certificate-data: {broken}\nclient-key-data: {text}"), "client-"),
        (
            server.clone(),
            format!("{}\nclient-key-data: {text}", user.lines().next().unwrap()),
            "`client-key` holds no private key",
        ),
        (server.clone(), token("'two words'"), "`token` holds characters that no token has"),
        (server.clone(), token("[a]"), "`user.token` is not text"),
        (server.clone(), "tokenFile: none".into(), "none`"),
    ];
    for (cluster, user, expected) in cases {
        let error = cloud.read(&cluster, &user).unwrap_err().to_string();
        assert!(error.contains(expected), "expected {expected:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn what_is_no_kubeconfig_at_all() {
    let cloud = Cloud::new();
    let good = kubeconfig("server: https://x", "token: t");
    let cases = [
        (String::new(), "has no `current-context`"),
        ("a: [1, 2\nb: {".into(), "is not YAML"),
        ("\u{0}\u{1}".into(), "is not YAML"),
        ("- a\n- b\n".into(), "has no `current-context`"),
        (good.replace("current-context: c", ""), "has no `current-context`"),
        (good.replace("current-context: c", "current-context: d"), "has no context of the name `d`"),
        (good.replace("cluster: k, ", ""), "has no `cluster`"),
        (good.replace("name: k", "name: other"), "has no cluster of the name `k`"),
        (good.replace("name: u", "name: other"), "has no user of the name `u`"),
        (good.replace("users:", "people:"), "has no `users`"),
        ("x".repeat(2 << 20), "is larger than 1048576 bytes"),
    ];
    for (text, expected) in cases {
        let path = cloud.file("kubeconfig", &text);
        let error = Credentials::read(&path).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(&path.display().to_string()), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let missing = Credentials::read(Path::new("/no/such")).unwrap_err().to_string();
    assert!(missing.contains("cannot read `/no/such`"), "{missing}");
    let folder = Credentials::read(cloud.folder.path()).unwrap_err().to_string();
    assert!(folder.contains("cannot read"), "{folder}");
}

#[test]
fn dates_are_judged_apart() {
    let cloud = Cloud::new();
    let server = format!("server: https://x\n{}", cloud.authority());
    let client = cloud.read(&server, &inline(&cloud.node())).unwrap().client.unwrap();
    let path = Path::new("/k");
    client.check_dates(path, jiff::Timestamp::UNIX_EPOCH).unwrap();
    let day = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
    let client = ClientCertificate {
        not_before: day("2026-01-01T00:00:00Z"),
        not_after: day("2027-01-01T00:00:00Z"),
        ..client
    };
    client.check_dates(path, day("2026-06-01T00:00:00Z")).unwrap();
    let error = client.check_dates(path, day("2027-01-02T00:00:00Z")).unwrap_err().to_string();
    assert!(error.contains("the client certificate of `/k` expired at 2027-01-01T00:00:00Z"), "{error}");
    let error = client.check_dates(path, day("1970-01-01T00:00:00Z")).unwrap_err().to_string();
    assert!(error.contains("valid from 2026-01-01") && error.contains("clock says 1970"), "{error}");
}

#[test]
fn secrets_stay_out_of_debug_and_errors() {
    let cloud = Cloud::new();
    let pair = cloud.node();
    let server = format!("server: https://x\n{}", cloud.authority());
    let credentials = cloud.read(&server, &format!("{}\ntoken: {TOKEN}", inline(&pair))).unwrap();
    let config = Kubeconfig::read(&credentials.path).unwrap();
    let shown = format!("{credentials:?}{config:?}{:?}", credentials.client);
    let key = pair.key.lines().nth(1).unwrap();
    assert!(!shown.contains(TOKEN) && !shown.contains(key), "{shown}");
    assert!(!shown.contains(&format!("{:?}", TOKEN.as_bytes())), "{shown}");
    let broken = kubeconfig(&server, &format!("token: \"{TOKEN}"));
    let error = Credentials::read(&cloud.file("kubeconfig", &broken)).unwrap_err();
    assert!(!format!("{error}{error:?}").contains(TOKEN), "{error:?}");
}

#[test]
fn what_edge_writes_it_reads() {
    let cloud = Cloud::new();
    let pair = cloud.node();
    let both = cloud.file("it's \"quoted\".pem", &format!("{}{}", pair.chain, pair.key));
    let text = kubeconfig::Written {
        cluster: "cloud",
        user: "system:node:ship-7",
        server: "https://10.0.0.1:6443",
        tls_server_name: Some("api.example"),
        authority: Material::Inline(cloud.ca.ca_pem().into()),
        certificate: Material::File(both.clone()),
        key: Material::File(both),
    }
    .text();
    let credentials = Credentials::read(&cloud.file("kubeconfig", &text)).unwrap();
    assert_eq!(credentials.node_name(), Some("ship-7"));
    assert_eq!(credentials.server_name.to_str(), "api.example");
}
