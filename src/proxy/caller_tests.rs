use super::*;

fn headers(authorization: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::AUTHORIZATION, authorization.parse().unwrap());
    headers
}

fn jwt(claims: &str) -> Caller {
    let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
    Caller::of(false, &headers(&format!("Bearer {token}"))).unwrap()
}

#[test]
fn nobody_without_certificate_or_bearer_token() {
    assert_eq!(Caller::of(false, &HeaderMap::new()), None);
    for bad in ["Basic YTpi", "Bearer", "Bearer ", "Bearer  "] {
        assert_eq!(Caller::of(false, &headers(bad)), None, "{bad:?}");
    }
    assert_eq!(Caller::of(true, &HeaderMap::new()), Some(Caller::Kubelet));
}

/// An API server takes `Bearer  a` for no token at all, and of `Bearer a b` the first part alone.
#[test]
fn nobody_is_known_by_what_the_cloud_would_read_otherwise() {
    for bad in ["Bearer  a", "Bearer a b", "Bearer a ", "Bearer \ta", "Bearer a\tb", " Bearer a", "Bearer\ta"]
    {
        assert_eq!(Caller::of(false, &headers(bad)), None, "{bad:?}");
    }
    let mut two = headers("Bearer a");
    two.append(http::header::AUTHORIZATION, "Bearer b".parse().unwrap());
    assert_eq!(Caller::of(false, &two), None);
    let Some(Caller::Bearer(one)) = Caller::of(false, &headers("bearer a.b-c~d+e/f=")) else { panic!() };
    assert_eq!(one.authorization().unwrap(), "Bearer a.b-c~d+e/f=");
}

#[test]
fn a_service_account_is_known_by_subject_and_pod() {
    let caller = jwt(r#"{"sub":"system:serviceaccount:ns:a","kubernetes.io":{"pod":{"uid":"u1"}}}"#);
    assert_eq!(caller.identity(), "system:serviceaccount:ns:a/u1");
    assert!(jwt(r#"{"sub":"somebody"}"#).identity().starts_with("token:"));
    assert!(!format!("{caller:?}").contains("e30"), "a token is never shown");
    for odd in [r#"{"sub":7}"#, r#"{"sub":"system:serviceaccount:ns:a","kubernetes.io":"x"}"#, "[]", ""] {
        assert!(jwt(odd).identity().starts_with("token:"), "{odd}");
    }
    for (aud, expected) in [(r#""a""#, 1), (r#"["a","b"]"#, 2), ("null", 0), (r#"[{"":0}]"#, 0)] {
        assert_eq!(token(&format!(r#"{{"aud":{aud}}}"#)).purpose().audiences.len(), expected, "{aud}");
    }
}

fn token(claims: &str) -> Bearer {
    match jwt(claims) {
        Caller::Bearer(bearer) => bearer,
        Caller::Kubelet => unreachable!(),
    }
}

/// A pod's token that ends then.
fn of_pod(exp: i64) -> Bearer {
    let pod = r#"{"pod":{"uid":"u1"}}"#;
    token(&format!(r#"{{"sub":"system:serviceaccount:ns:a","exp":{exp},"kubernetes.io":{pod}}}"#))
}

async fn known(cache: &Cache, bearers: [&Bearer; 2]) -> [bool; 2] {
    [accepted(cache, bearers[0]).await.unwrap(), accepted(cache, bearers[1]).await.unwrap()]
}

#[tokio::test]
async fn a_refusal_is_about_the_identity_unless_the_token_has_a_successor() {
    let (over, first, second) = (of_pod(1_000_000_000), of_pod(9_000_000_000), of_pod(9_000_000_001));
    let forged = of_pod(9_000_000_002);
    for (refused, earlier, expected) in [
        (&first, &first, [false, false]),
        (&second, &first, [false, false]),
        (&over, &over, [false, true]),
        (&forged, &first, [true, true]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        for bearer in [earlier, &second] {
            let (digest, identity) = (bearer.digest(), bearer.identity());
            cache.commit(move |w| w.accept_caller(&digest, &identity, &Purpose::default())).await.unwrap();
            if *bearer != second {
                // Which was first is known to the second.
                tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
            }
        }
        assert_eq!(known(&cache, [earlier, &second]).await, [true, true]);
        let bearer = refused.clone();
        cache.commit(move |w| refuse(w, &bearer)).await.unwrap();
        assert_eq!(known(&cache, [earlier, &second]).await, expected, "{}", refused.is_over());
    }
}

#[tokio::test]
async fn the_last_token_of_all_leaves_none_before_it_and_a_pod_that_is_gone_none_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let (first, second) = (of_pod(1_000_000_000), of_pod(1_000_000_001));
    let accept = async || {
        for bearer in [&first, &second] {
            let (digest, identity) = (bearer.digest(), bearer.identity());
            cache.commit(move |w| w.accept_caller(&digest, &identity, &Purpose::default())).await.unwrap();
        }
    };
    accept().await;
    let last = second.clone();
    cache.commit(move |w| refuse(w, &last)).await.unwrap();
    assert_eq!(known(&cache, [&first, &second]).await, [false, false]);
    accept().await;
    cache.commit(|w| w.drop_tokens_of("Pod/u2")).await.unwrap();
    assert_eq!(known(&cache, [&first, &second]).await, [true, true]);
    cache.commit(|w| w.drop_tokens_of("Pod/u1")).await.unwrap();
    assert_eq!(known(&cache, [&first, &second]).await, [false, false]);
}

#[tokio::test]
async fn a_signed_token_for_somebody_else_is_none_for_the_api() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let signer = signature::tests::Signer::new();
    let token = |iss: &str, aud: &str, jti: u32| {
        let sub = r#""sub":"system:serviceaccount:ns:a","kubernetes.io":{"pod":{"uid":"u1"}}"#;
        let claims = format!(r#"{{{sub},"iss":"{iss}","aud":{aud},"jti":"{jti}","exp":9000000000}}"#);
        Bearer::new(&signer.sign(&claims))
    };
    let first = token("cloud", r#"["api","other"]"#, 1);
    let (digest, identity, purpose) = (first.digest(), first.identity(), first.purpose());
    let keys = vec![("k".to_owned(), signer.jwk())];
    let accept = move |w: &mut Writer| {
        w.replace_verifiers(&keys)?;
        w.accept_caller(&digest, &identity, &purpose)
    };
    cache.commit(accept).await.unwrap();
    for (token, expected) in [
        (token("cloud", r#"["api"]"#, 2), true),
        (token("cloud", r#""api""#, 3), true),
        (token("cloud", r#"["vault"]"#, 4), false),
        (token("cloud", "[]", 5), false),
        (token("another", r#"["api"]"#, 6), false),
    ] {
        assert_eq!(accepted(&cache, &token).await.unwrap(), expected, "{:?}", token.purpose());
    }
    let vault = token("cloud", r#"["vault"]"#, 4);
    cache.commit(move |w| refuse(w, &vault)).await.unwrap();
    assert!(accepted(&cache, &first).await.unwrap(), "that it is refused says nothing of the others");
    let second = token("cloud", r#"["api"]"#, 7);
    cache.commit(move |w| refuse(w, &second)).await.unwrap();
    assert!(!accepted(&cache, &first).await.unwrap(), "a token for the API does");
}
