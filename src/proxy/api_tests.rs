//! The client against a server that speaks real TLS, and against what is no API server.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::trust::ca::LocalCa;

/// Answers one connection with `answer` and returns what was asked.
async fn server(ca: &LocalCa, answer: String) -> (u16, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let pair = ca.issue_server(&["127.0.0.1"]).unwrap();
    let chain = CertificateDer::pem_slice_iter(pair.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        let mut asked = vec![0; 64 << 10];
        let length = stream.read(&mut asked).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.shutdown().await;
        String::from_utf8_lossy(&asked[..length]).into_owned()
    });
    (port, task)
}

fn api(ca_pem: &str, port: u16) -> Api {
    let credentials = Credentials {
        path: Path::new("/k").into(),
        files: Vec::new(),
        server: format!("https://127.0.0.1:{port}/prefix/").parse().unwrap(),
        server_name: ServerName::try_from("127.0.0.1").unwrap(),
        tls_server_name: None,
        authority_pem: ca_pem.into(),
        client: None,
        token: Some("t0ken".into()),
    };
    Api::new(Arc::new(credentials)).unwrap()
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_request_carries_path_token_and_json() {
    let folder = tempfile::tempdir().unwrap();
    let ca = LocalCa::open_or_create(folder.path()).unwrap();
    let (port, asked) = server(&ca, answer("201 Created", r#"{"kind":"X"}"#)).await;
    let object = api(ca.ca_pem(), port).post("/api/v1/x?a=b", &serde_json::json!({"y": 1})).await.unwrap();
    assert_eq!(object["kind"], "X");
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("POST /prefix/api/v1/x?a=b HTTP/1.1\r\n"), "{asked}");
    for part in ["authorization: Bearer t0ken\r\n", "content-type: application/json\r\n", "\r\n\r\n{\"y\":1}"]
    {
        assert!(asked.contains(part), "{part}: {asked}");
    }
}

#[tokio::test]
async fn what_is_refused_carries_the_question_and_the_server_s_message() {
    let folder = tempfile::tempdir().unwrap();
    let ca = LocalCa::open_or_create(folder.path()).unwrap();
    let cases = [
        (
            answer("403 Forbidden", r#"{"kind":"Status","message":"nodes is forbidden"}"#),
            "GET `/api`: 403 Forbidden: nodes is forbidden",
            false,
        ),
        (
            answer("503 Service Unavailable", "<html>"),
            "503 Service Unavailable: the answer carries no message",
            true,
        ),
        (answer("200 OK", "<html>"), "GET `/api`: the answer is not JSON", false),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".into(),
            "GET `/api`: the answer is larger than",
            true,
        ),
        ("SSH-2.0\r\n".into(), "the connection broke off", true),
        (
            format!("HTTP/1.1 200 OK\r\n\r\n\"{}\"", "x".repeat(MOST_BYTES)),
            "the answer is larger than 4194304",
            true,
        ),
    ];
    for (text, expected, passing) in cases {
        let (port, _asked) = server(&ca, text).await;
        let error = api(ca.ca_pem(), port).get("/api").await.unwrap_err();
        assert!(error.to_string().contains(expected), "expected {expected}: {error}");
        assert_eq!(error.is_passing(), passing, "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_the_cloud_gets_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let ca = LocalCa::open_or_create(&folder.path().join("a")).unwrap();
    let stranger = LocalCa::open_or_create(&folder.path().join("b")).unwrap();
    let (port, asked) = server(&stranger, answer("200 OK", "{}")).await;
    let error = api(ca.ca_pem(), port).get("/api").await.unwrap_err();
    assert!(error.to_string().contains(&format!("no TLS with `127.0.0.1:{port}`")), "{error}");
    assert!(!error.is_passing());
    assert!(asked.await.is_err(), "the server saw no request");

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = api(ca.ca_pem(), free).get("/api").await.unwrap_err();
    assert!(
        error.to_string().contains(&format!("cannot reach `127.0.0.1:{free}`")) && error.is_passing(),
        "{error}"
    );
}
