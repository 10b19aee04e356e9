use super::*;
use serde_json::json;

fn parse(text: &str) -> LabelSelector {
    text.parse().unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn canonical_form() {
    let cases = [
        ("", ""),
        ("x=a,y=b,z=c", "x=a,y=b,z=c"),
        ("b==2, a = 1 ,b=2", "a=1,b=2"),
        ("x in (a)", "x=a"),
        ("x notin (a)", "x!=a"),
        ("x in (foo,,baz),y,z notin ()", "x in (,baz,foo),y,z!="),
        ("x in (,)", "x="),
        ("x in (a,)", "x in (,a)"),
        ("x=,z= ", "x=,z="),
        ("in in (in,notin)", "in in (in,notin)"),
        ("!x", "!x"),
        ("x>1,z<5", "x>1,z<5"),
        ("a.b/c=d", "a.b/c=d"),
        ("x=notin", "x=notin"),
    ];
    for (text, want) in cases {
        assert_eq!(parse(text).to_string(), want, "{text}");
        assert_eq!(parse(want), parse(text), "{text}");
    }
}

#[test]
fn refused() {
    let long = format!("x={}", "a".repeat(64));
    let cases = [
        ",",
        "x,",
        "x=a||y=b",
        "x==a==b",
        "!x=a",
        "x<a",
        "x>",
        "x in a",
        "x in (a",
        "x in (a b)",
        "x in ((a))",
        "x!a",
        "a/b/c=d",
        "/a",
        "A.b/c",
        "-x",
        "x=-",
        "x=a b",
        "!",
        "x=a,,y",
        "x y",
        "=a",
        &long,
    ];
    for text in cases {
        assert!(text.parse::<LabelSelector>().is_err(), "{text}");
    }
}

#[test]
fn matching() {
    let object = json!({"metadata": {"labels": {"x": "a", "n": "5", "e": ""}}});
    let cases = [
        ("", true),
        ("x=a", true),
        ("x=b", false),
        ("y=", false),
        ("e=", true),
        ("y!=a", true),
        ("x!=a", false),
        ("y notin (a,b)", true),
        ("x notin (a,b)", false),
        ("x in (a,b),n", true),
        ("x,!y", true),
        ("!x", false),
        ("n>4,n<6", true),
        ("n>5", false),
        ("x>1", false),
        ("y<1", false),
    ];
    for (text, want) in cases {
        assert_eq!(parse(text).matches(&object), want, "{text}");
    }
    assert!(parse("a!=b").matches(&json!({})));
}

#[test]
fn narrowing() {
    let cases = [
        ("a=b,c=d", "a=b", true),
        ("a=b", "", true),
        ("", "a=b", false),
        ("a=b", "a=b,c=d", false),
        ("a=b", "a in (b,c)", true),
        ("a in (b,c)", "a=b", false),
        ("a=b", "a", true),
        ("a=b", "a!=c", true),
        ("a=b", "a!=b", false),
        ("!a", "a!=c", true),
        ("a notin (b,c)", "a!=b", true),
        ("a!=b", "a", false),
        ("a>5", "a>4", true),
        ("a>4", "a>5", false),
        ("a<4", "a", true),
    ];
    for (wanted, synced, want) in cases {
        assert_eq!(parse(wanted).narrows(&parse(synced)), want, "{wanted} narrows {synced}");
    }
}
