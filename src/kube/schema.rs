//! What is known of the Kubernetes types: kinds, their resources, and the fields of their messages.
//!
//! The table is the text `schema.txt`, made from Kubernetes' own Go types by `scripts/schema`. It is cut
//! into lines once, and a message is parsed when it is first asked for, so that a gateway holds only the
//! kinds it meets. Names are slices of the text.

use std::sync::{LazyLock, OnceLock};

static TEXT: &str = include_str!("schema.txt");
static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::cut(TEXT));

struct Schema {
    /// Sorted by version and name.
    kinds: Vec<Kind>,
    messages: Vec<Slot>,
}

struct Slot {
    lines: &'static str,
    parsed: OnceLock<Message>,
}

/// A kind of the built-in API groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// `v1`, `apps/v1`; `*` for the options that every group and version has.
    pub api_version: &'static str,
    /// `Pod`.
    pub name: &'static str,
    /// The resource that is served under this kind.
    pub resource: Option<Resource>,
    pub(super) message: MessageId,
}

/// The resource of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// `pods`.
    pub plural: &'static str,
    /// Whether its objects lie in namespaces.
    pub scope: Scope,
}

/// Where the objects of a resource lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster as a whole.
    Cluster,
}

/// The place of a message in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MessageId(u16);

/// A protobuf message and the JSON object it stands for.
#[derive(Debug)]
pub(super) struct Message {
    pub name: &'static str,
    /// Whether the JSON object may carry apiVersion and kind, which the message has not.
    pub typed: bool,
    /// By number.
    pub fields: Vec<Field>,
}

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    pub number: u32,
    pub form: Form,
    pub card: Card,
    pub omit: Omit,
    /// The key in the JSON object; empty if inlined.
    pub name: &'static str,
    pub patch: Patch,
}

/// How one value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    Bytes,
    Message(MessageId),
    Time,
    MicroTime,
    Duration,
    Quantity,
    IntOrString,
    Raw,
    /// A list of strings that is a message of its own.
    Strings,
    /// Has a JSON form that this table does not describe.
    Opaque,
}

/// How many values there are, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Card {
    Plain,
    Pointer,
    Repeated,
    /// From strings.
    Map,
    /// The fields of the message are those of the JSON object around it.
    Inline,
}

/// When the JSON leaves the field out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Omit {
    Never,
    /// Go's `omitempty`: zero scalars, empty lists and maps, absent pointers; never messages.
    Empty,
    /// `omitzero` too: also zero messages.
    Zero,
}

/// How a strategic merge patch treats the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Patch {
    pub merge: bool,
    pub replace: bool,
    /// By which key the objects of a list are told apart; empty for lists of scalars.
    pub key: &'static str,
}

/// A kind by the `apiVersion` and `kind` that its objects carry.
pub fn kind(api_version: &str, name: &str) -> Option<Kind> {
    let kinds = &SCHEMA.kinds;
    let find = |version: &str| {
        kinds.binary_search_by(|k| (k.api_version, k.name).cmp(&(version, name))).ok().map(|at| kinds[at])
    };
    find(api_version).or_else(|| find("*"))
}

/// The kind that a built-in resource is served under; `api_version` is `v1` or `group/version`.
pub fn kind_of(api_version: &str, plural: &str) -> Option<Kind> {
    let from = SCHEMA.kinds.partition_point(|k| k.api_version < api_version);
    SCHEMA.kinds[from..]
        .iter()
        .take_while(|k| k.api_version == api_version)
        .find(|k| k.resource.is_some_and(|r| r.plural == plural))
        .copied()
}

impl MessageId {
    pub(super) fn get(self) -> &'static Message {
        // The table is whole and checked by a test; an id that is not in it is met by an empty message.
        static NONE: Message = Message { name: "", typed: false, fields: Vec::new() };
        match SCHEMA.messages.get(usize::from(self.0)) {
            Some(slot) => slot.parsed.get_or_init(|| Message::parse(slot.lines)),
            None => &NONE,
        }
    }
}

impl Message {
    /// The place of a field, by its number. Most messages count without gaps.
    pub(super) fn find(&self, number: u32) -> Option<usize> {
        let guess = (number as usize).wrapping_sub(1);
        if self.fields.get(guess).is_some_and(|f| f.number == number) {
            return Some(guess);
        }
        self.fields.binary_search_by_key(&number, |f| f.number).ok()
    }

    /// A field by its key in the JSON object, those of inlined messages included.
    pub(super) fn key(&'static self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find_map(|field| match (field.card, field.form) {
            (Card::Inline, Form::Message(id)) => id.get().key(name),
            _ => (field.name == name).then_some(field),
        })
    }

    fn parse(lines: &'static str) -> Message {
        let mut lines = lines.lines();
        let mut head = lines.next().unwrap_or_default().split(' ').skip(1);
        let name = head.next().unwrap_or_default();
        let typed = head.next().is_some();
        Message { name, typed, fields: lines.filter_map(Field::parse).collect() }
    }
}

impl Schema {
    fn cut(text: &'static str) -> Schema {
        let (mut kinds, mut starts) = (Vec::new(), Vec::new());
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            if line.starts_with("m ") {
                starts.push(at);
            } else if let Some(kind) = line.strip_prefix("k ") {
                kinds.extend(Kind::parse(kind.trim_end()));
            }
            at += line.len();
        }
        let ends = starts.iter().skip(1).copied().chain([text.len()]);
        let slot = |(start, end): (usize, usize)| Slot { lines: &text[start..end], parsed: OnceLock::new() };
        Schema { kinds, messages: starts.iter().copied().zip(ends).map(slot).collect() }
    }
}

impl Kind {
    fn parse(line: &'static str) -> Option<Kind> {
        let mut words = line.split(' ');
        let (api_version, name) = (words.next()?, words.next()?);
        let message = MessageId(words.next()?.parse().ok()?);
        let resource = words.next().map(|plural| Resource {
            plural,
            scope: if words.next() == Some("n") { Scope::Namespaced } else { Scope::Cluster },
        });
        Some(Kind { api_version, name, resource, message })
    }
}

impl Field {
    fn parse(line: &'static str) -> Option<Field> {
        let mut words = line.split(' ');
        let number = words.next()?.parse().ok()?;
        let [form, card, omit] = words.next()?.as_bytes() else { return None };
        let name = words.next().filter(|name| *name != "-").unwrap_or_default();
        let mut rest = words.peekable();
        let form = match form {
            b's' => Form::String,
            b'b' => Form::Bool,
            b'i' => Form::Int32,
            b'l' => Form::Int64,
            b'd' => Form::Double,
            b'y' => Form::Bytes,
            b'm' => Form::Message(MessageId(rest.next()?.parse().ok()?)),
            b'T' => Form::Time,
            b'U' => Form::MicroTime,
            b'D' => Form::Duration,
            b'Q' => Form::Quantity,
            b'I' => Form::IntOrString,
            b'R' | b'F' => Form::Raw,
            b'W' => Form::Strings,
            _ => Form::Opaque,
        };
        let card = match card {
            b'p' => Card::Pointer,
            b'r' => Card::Repeated,
            b'M' => Card::Map,
            b'n' => Card::Inline,
            _ => Card::Plain,
        };
        let omit = match omit {
            b'e' => Omit::Empty,
            b'z' => Omit::Zero,
            _ => Omit::Never,
        };
        let patch = rest.next().and_then(|word| word.strip_prefix('@')).map(Patch::parse).unwrap_or_default();
        Some(Field { number, form, card, omit, name, patch })
    }
}

impl Patch {
    fn parse(word: &'static str) -> Patch {
        let (letters, key) = word.split_once(':').unwrap_or((word, ""));
        Patch { merge: letters.contains('m'), replace: letters.contains('r'), key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_of_the_table_parses() {
        let fields: usize = TEXT.lines().filter(|l| l.starts_with(|c: char| c.is_ascii_digit())).count();
        let ids = (0..SCHEMA.messages.len()).map(|n| MessageId(n as u16));
        let messages: Vec<&Message> = ids.map(MessageId::get).collect();
        assert_eq!(messages.iter().map(|m| m.fields.len()).sum::<usize>(), fields);
        assert!(SCHEMA.kinds.is_sorted_by_key(|k| (k.api_version, k.name)));
        for message in messages {
            assert!(message.fields.len() <= 128, "{} does not fit the decoder's set", message.name);
            assert!(message.fields.is_sorted_by_key(|f| f.number), "{}", message.name);
            for (at, field) in message.fields.iter().enumerate() {
                assert_eq!(message.find(field.number), Some(at));
                if let Form::Message(id) = field.form {
                    assert!(usize::from(id.0) < SCHEMA.messages.len());
                }
            }
            assert_eq!(message.find(0), None);
            assert_eq!(message.find(5000), None);
        }
    }

    #[test]
    fn kinds_and_resources() {
        let pod = kind("v1", "Pod").unwrap();
        assert_eq!(pod.resource, Some(Resource { plural: "pods", scope: Scope::Namespaced }));
        assert_eq!(kind_of("v1", "endpoints").unwrap().name, "Endpoints");
        assert_eq!(kind_of("v1", "nodes").unwrap().resource.unwrap().scope, Scope::Cluster);
        assert_eq!(kind_of("storage.k8s.io/v1", "csinodes").unwrap().name, "CSINode");
        assert_eq!(kind_of("v1", "deployments"), None);
        assert_eq!(kind("policy/v1", "DeleteOptions").unwrap().api_version, "*");
        assert_eq!(kind("v1", "Nothing"), None);
        let fields = &pod.message.get().fields;
        let Form::Message(spec) = fields[1].form else { panic!("spec is a message") };
        let containers = &spec.get().fields[1];
        assert_eq!(
            (containers.name, containers.patch.merge, containers.patch.key),
            ("containers", true, "name")
        );
        let volumes = &spec.get().fields[0];
        assert!(volumes.patch.merge && !volumes.patch.replace);
    }
}
