//! Tokens, accepted callers, the issuer's public keys, and documents that are not objects.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::scope::pod_of;
use super::{CacheError, Reader, ScopeId, Writer, seconds};

/// Accepted tokens kept of one identity; a pod gets a new one every hour, and what is older has ended long ago.
const TOKENS: i64 = 64;
/// Accepted tokens kept in all.
const CALLERS: i64 = 8192;

/// A TokenRequest, by what was asked: never by what was answered, which changes with each cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenKey {
    /// Of the service account.
    pub namespace: String,
    /// The service account.
    pub account: String,
    /// As asked, in order, separated by a newline; empty for the default.
    pub audiences: String,
    /// `spec.expirationSeconds` as asked.
    pub expiration: i64,
    /// `Pod/UID` of what it is bound to; empty for none.
    pub bound: String,
}

/// A token that kubelet got for a pod.
#[derive(Clone, Debug)]
pub struct PodToken {
    /// It was asked for without an audience, and so is for the API server.
    pub is_default: bool,
    /// The answer to the TokenRequest.
    pub body: Vec<u8>,
}

/// What a token says of itself beside its subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purpose {
    /// Who has issued it (`iss`).
    pub issuer: String,
    /// Whom it is for (`aud`).
    pub audiences: Vec<String>,
}

impl Purpose {
    /// Whether a token of this purpose is for somebody that one of the `other` purpose was for, by the same issuer.
    pub fn meets(&self, other: &Self) -> bool {
        !self.issuer.is_empty()
            && self.issuer == other.issuer
            && self.audiences.iter().any(|audience| other.audiences.contains(audience))
    }
}

/// A body that is no Kubernetes object, such as `/apis` or `/version`.
#[derive(Clone, Debug)]
pub struct Document {
    /// Content-Type.
    pub kind: String,
    /// ETag, or empty.
    pub etag: String,
    /// The bytes as they came, not compressed.
    pub body: Vec<u8>,
}

impl Writer {
    /// Keeps the answer to a TokenRequest.
    ///
    /// # Errors
    /// The statement's.
    pub fn put_token(&self, key: &TokenKey, body: &[u8]) -> Result<(), CacheError> {
        self.db()
            .prepare_cached(
                "INSERT OR REPLACE INTO token (namespace, account, audiences, expiration, bound, at, body)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                key.namespace,
                key.account,
                key.audiences,
                key.expiration,
                key.bound,
                seconds(),
                body
            ])?;
        Ok(())
    }

    /// Forgets the tokens that were bound to something, as when a pod is gone, and whom they stood for, with what those
    /// have read.
    ///
    /// # Errors
    /// The statement's.
    pub fn drop_tokens_of(&mut self, bound: &str) -> Result<(), CacheError> {
        self.db().prepare_cached("DELETE FROM token WHERE bound = ?")?.execute([bound])?;
        if let Some(uid) = bound.strip_prefix("Pod/").filter(|uid| !uid.is_empty()) {
            let sql = format!("DELETE FROM caller WHERE {} = ?", pod_of("identity"));
            self.db().prepare_cached(&sql)?.execute([uid])?;
            self.forget_pod(uid)?;
        }
        Ok(())
    }

    /// Forgets the tokens that were bound to pods which are not in this scope, the whole list of them, and what these
    /// have read; gives how many pods that were.
    ///
    /// # Errors
    /// The statement's.
    pub fn drop_tokens_beside(&mut self, pods: ScopeId) -> Result<usize, CacheError> {
        let gone: Vec<String> = self
            .db()
            .prepare_cached(&format!(
                "SELECT bound FROM
                 (SELECT bound FROM token WHERE bound LIKE 'Pod/_%'
                  UNION SELECT 'Pod/' || {} FROM identity WHERE name LIKE 'system:serviceaccount:%/_%')
                 WHERE substr(bound, 5) NOT IN
                 (SELECT uid FROM object JOIN member ON member.object = object.id WHERE scope = ?)",
                pod_of("name")
            ))?
            .query_map([pods.0], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        gone.iter().try_for_each(|bound| self.drop_tokens_of(bound))?;
        Ok(gone.len())
    }

    /// The cloud accepted this bearer token (its SHA-256 in hex) as that identity. When it did so first is kept:
    /// by it a token is known to be newer than another. Of one identity, and of all, the newest are kept.
    ///
    /// # Errors
    /// The statement's.
    pub fn accept_caller(&self, digest: &str, identity: &str, purpose: &Purpose) -> Result<(), CacheError> {
        self.db()
            .prepare_cached(
                "INSERT INTO caller (digest, identity, at) VALUES (?, ?, ?) ON CONFLICT (digest)
                 DO UPDATE SET identity = excluded.identity WHERE identity <> excluded.identity",
            )?
            .execute(params![digest, identity, seconds()])?;
        self.db()
            .prepare_cached("INSERT OR REPLACE INTO audience (digest, issuer, audiences) VALUES (?, ?, ?)")?
            .execute(params![digest, purpose.issuer, purpose.audiences.join("\n")])?;
        let bounds = [
            "DELETE FROM caller WHERE identity = ?1 AND digest <> ?2 AND digest NOT IN
             (SELECT digest FROM caller WHERE identity = ?1 ORDER BY at DESC, digest LIMIT ?3)",
            "DELETE FROM caller WHERE ?1 <> '' AND digest <> ?2 AND digest NOT IN
             (SELECT digest FROM caller ORDER BY at DESC, digest LIMIT ?3)",
        ];
        for (sql, most) in bounds.into_iter().zip([TOKENS, CALLERS]) {
            self.db().prepare_cached(sql)?.execute(params![identity, digest, most])?;
        }
        Ok(())
    }

    /// The cloud refused this bearer token of that identity. Those before it stand for the identity no more: they
    /// were there before it. One that is over may have a good successor; with one that is not (`whole`), all go.
    ///
    /// # Errors
    /// The statement's.
    pub fn refuse_caller(&self, digest: &str, identity: &str, whole: bool) -> Result<(), CacheError> {
        self.db()
            .prepare_cached(
                "DELETE FROM caller WHERE identity = ?2
                 AND (?3 OR at <= (SELECT at FROM caller WHERE digest = ?1 AND identity = ?2))",
            )?
            .execute(params![digest, identity, whole])?;
        Ok(())
    }

    /// Tokens of these issuers stand for service accounts, and no others do: those that are kept otherwise are forgotten,
    /// and what was read under their names, by whomever, is read anew.
    ///
    /// # Errors
    /// The statement's.
    pub fn keep_callers_of(&mut self, issuers: &[&str]) -> Result<(), CacheError> {
        let sql = "SELECT digest, identity, issuer FROM caller JOIN audience USING (digest)";
        let mut rows: Vec<(String, String, String)> = self
            .db()
            .prepare_cached(sql)?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        rows.retain(|(_, identity, issuer)| {
            identity.starts_with("system:serviceaccount:") != issuers.contains(&&**issuer)
        });
        let mut names = HashSet::new();
        for (digest, identity, _) in rows {
            self.db().prepare_cached("DELETE FROM caller WHERE digest = ?")?.execute([digest])?;
            names.insert(identity);
        }
        for name in names {
            self.forget_read(&name)?;
            self.note_loss();
        }
        Ok(())
    }

    /// Whether the cloud has accepted this very token.
    ///
    /// # Errors
    /// The statement's.
    pub fn has_accepted(&self, digest: &str) -> Result<bool, CacheError> {
        Ok(self.db().prepare_cached("SELECT 1 FROM caller WHERE digest = ?")?.exists([digest])?)
    }

    /// As [`Reader::tokens_of`].
    ///
    /// # Errors
    /// The statement's.
    pub fn tokens_of(&self, namespace: &str, account: &str, uid: &str) -> Result<Vec<PodToken>, CacheError> {
        tokens_of(self.db(), namespace, account, uid)
    }

    /// As [`Reader::purposes`].
    ///
    /// # Errors
    /// The statement's.
    pub fn purposes(&self, identity: &str) -> Result<Vec<Purpose>, CacheError> {
        purposes(self.db(), identity)
    }

    /// The public key `kid` of the token issuer, as [`Reader::verifier`] has it.
    ///
    /// # Errors
    /// The statement's.
    pub fn verifier(&self, kid: &str) -> Result<Option<String>, CacheError> {
        verifier(self.db(), kid)
    }

    /// Keeps the issuer's public keys, as JSON web keys by key id, instead of those before.
    ///
    /// # Errors
    /// The statement's.
    pub fn replace_verifiers(&self, keys: &[(String, String)]) -> Result<(), CacheError> {
        self.db().execute("DELETE FROM verifier", [])?;
        for (kid, jwk) in keys {
            self.db()
                .prepare_cached("INSERT OR REPLACE INTO verifier (kid, jwk) VALUES (?, ?)")?
                .execute([kid, jwk])?;
        }
        Ok(())
    }

    /// Keeps a document for an identity, unless the file holds just this.
    ///
    /// # Errors
    /// The statement's.
    pub fn put_document(
        &mut self,
        identity: &str,
        path: &str,
        variant: &str,
        document: &Document,
    ) -> Result<(), CacheError> {
        let identity = self.identity_row(identity)?;
        self.db()
            .prepare_cached(
                "INSERT INTO document (identity, path, variant, type, etag, at, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (identity, path, variant) DO UPDATE
                 SET type = ?4, etag = ?5, at = ?6, body = ?7 WHERE body <> ?7 OR type <> ?4",
            )?
            .execute(params![
                identity,
                path,
                variant,
                document.kind,
                document.etag,
                seconds(),
                document.body
            ])?;
        Ok(())
    }

    /// Removes a document of an identity, if there is one.
    ///
    /// # Errors
    /// The statement's.
    pub fn forget_document(&mut self, identity: &str, path: &str, variant: &str) -> Result<(), CacheError> {
        let identity = self.identity_row(identity)?;
        self.db()
            .prepare_cached("DELETE FROM document WHERE identity = ? AND path = ? AND variant = ?")?
            .execute(params![identity, path, variant])?;
        Ok(())
    }
}

impl Reader {
    /// The last real answer to the same TokenRequest.
    ///
    /// # Errors
    /// The statement's.
    pub fn token(&self, key: &TokenKey) -> Result<Option<Vec<u8>>, CacheError> {
        Ok(self
            .db()
            .prepare_cached(
                "SELECT body FROM token
                 WHERE namespace = ? AND account = ? AND audiences = ? AND expiration = ? AND bound = ?",
            )?
            .query_row(params![key.namespace, key.account, key.audiences, key.expiration, key.bound], |row| {
                row.get(0)
            })
            .optional()?)
    }

    /// Some of the answers to kubelet's TokenRequests, the newest.
    ///
    /// # Errors
    /// The statement's.
    pub fn pod_tokens(&self) -> Result<Vec<Vec<u8>>, CacheError> {
        let mut statement = self.db().prepare_cached("SELECT body FROM token ORDER BY at DESC LIMIT 16")?;
        Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }

    /// Kubelet's tokens of a pod: those for nobody in particular first, of each kind the newest.
    ///
    /// # Errors
    /// The statement's.
    pub fn tokens_of(&self, namespace: &str, account: &str, uid: &str) -> Result<Vec<PodToken>, CacheError> {
        tokens_of(self.db(), namespace, account, uid)
    }

    /// Whom the cloud took the bearer of this token (its SHA-256 in hex) for.
    ///
    /// # Errors
    /// The statement's.
    pub fn caller(&self, digest: &str) -> Result<Option<String>, CacheError> {
        Ok(self
            .db()
            .prepare_cached("SELECT identity FROM caller WHERE digest = ?")?
            .query_row([digest], |row| row.get(0))
            .optional()?)
    }

    /// What the tokens were for that the cloud has accepted of `identity`.
    ///
    /// # Errors
    /// The statement's.
    pub fn purposes(&self, identity: &str) -> Result<Vec<Purpose>, CacheError> {
        purposes(self.db(), identity)
    }

    /// The public key `kid` of the token issuer, as a JSON web key.
    ///
    /// # Errors
    /// The statement's.
    pub fn verifier(&self, kid: &str) -> Result<Option<String>, CacheError> {
        verifier(self.db(), kid)
    }

    /// A document as `identity` has read it.
    ///
    /// # Errors
    /// The statement's.
    pub fn document(
        &self,
        identity: &str,
        path: &str,
        variant: &str,
    ) -> Result<Option<Document>, CacheError> {
        Ok(self
            .db()
            .prepare_cached(
                "SELECT type, etag, body FROM document JOIN identity ON identity.id = document.identity
                 WHERE identity.name = ? AND path = ? AND variant = ?",
            )?
            .query_row([identity, path, variant], |row| {
                Ok(Document { kind: row.get(0)?, etag: row.get(1)?, body: row.get(2)? })
            })
            .optional()?)
    }
}

fn verifier(db: &Connection, kid: &str) -> Result<Option<String>, CacheError> {
    Ok(db
        .prepare_cached("SELECT jwk FROM verifier WHERE kid = ?")?
        .query_row([kid], |row| row.get(0))
        .optional()?)
}

fn tokens_of(
    db: &Connection,
    namespace: &str,
    account: &str,
    uid: &str,
) -> Result<Vec<PodToken>, CacheError> {
    let sql = "SELECT audiences, body FROM token WHERE namespace = ? AND account = ? AND bound = ?
               ORDER BY audiences <> '', at DESC";
    let token = |row: &rusqlite::Row<'_>| {
        let audiences: String = row.get(0)?;
        Ok(PodToken { is_default: audiences.is_empty(), body: row.get(1)? })
    };
    let bound = format!("Pod/{uid}");
    Ok(db.prepare_cached(sql)?.query_map([namespace, account, &bound], token)?.collect::<Result<_, _>>()?)
}

fn purposes(db: &Connection, identity: &str) -> Result<Vec<Purpose>, CacheError> {
    let sql = "SELECT DISTINCT issuer, audiences FROM audience JOIN caller USING (digest) WHERE identity = ?";
    let purpose = |row: &rusqlite::Row<'_>| {
        let audiences: String = row.get(1)?;
        Ok(Purpose { issuer: row.get(0)?, audiences: audiences.split('\n').map(str::to_owned).collect() })
    };
    Ok(db.prepare_cached(sql)?.query_map([identity], purpose)?.collect::<Result<_, _>>()?)
}
