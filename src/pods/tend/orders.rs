//! Restarts that the cloud orders with an annotation: each value once, and never the value that a pod was made with.
//! Pure.

use serde::{Deserialize, Serialize};

use crate::pods::restart::Part;
use crate::sys::digest::Digest;

/// The annotations, and what each restarts.
pub const ANNOTATIONS: [(&str, Part); 2] =
    [("edge.io/restart", Part::Containers), ("edge.io/restart-whole", Part::Whole)];

/// Values remembered of a pod. More than the newest, since an older list of the cloud's may bring an older one back.
const KEPT: usize = 16;
/// Characters of a value that are shown.
const SHOWN: usize = 64;

/// An order that is to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What is restarted.
    pub part: Part,
    /// `edge.io/restart=VALUE`, for people.
    pub given: String,
}

/// What was ordered for a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Orders {
    /// Short digests of the values that were taken, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    taken: Vec<String>,
    /// One that was begun, and not ended as far as is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begun: Option<String>,
}

impl Orders {
    /// Of a pod that is seen for the first time: what it came with is no order.
    pub fn first(values: [Option<&str>; 2]) -> Self {
        let mut orders = Self::default();
        orders.take(values);
        orders.begun = None;
        orders
    }

    /// What the values of [`ANNOTATIONS`] order anew, the larger part if both do. It counts as begun.
    pub fn take(&mut self, values: [Option<&str>; 2]) -> Option<Order> {
        let mut order = None;
        for ((name, part), value) in ANNOTATIONS.into_iter().zip(values) {
            let Some(value) = value else { continue };
            let given = format!("{name}={value}");
            let mark = Digest::sha256(given.as_bytes()).hex()[..16].to_owned();
            if self.taken.contains(&mark) {
                continue;
            }
            self.taken.push(mark);
            let shown = given.chars().take(name.len() + 1 + SHOWN).collect();
            order = Some(Order { part, given: shown });
        }
        let surplus = self.taken.len().saturating_sub(KEPT);
        self.taken.drain(..surplus);
        if let Some(order) = &order {
            self.begun = Some(order.given.clone());
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(orders: &mut Orders, values: [Option<&str>; 2]) -> Option<(Part, String)> {
        orders.take(values).map(|order| (order.part, order.given))
    }

    #[test]
    fn each_new_value_is_taken_once() {
        let mut orders = Orders::first([Some("1"), None]);
        assert_eq!(taken(&mut orders, [Some("1"), None]), None, "it was made with it");
        let order = taken(&mut orders, [Some("2"), None]);
        assert_eq!(order, Some((Part::Containers, "edge.io/restart=2".to_owned())));
        assert_eq!(taken(&mut orders, [Some("2"), None]), None);
        assert_eq!(taken(&mut orders, [None, None]), None);
        assert_eq!(taken(&mut orders, [Some("1"), None]), None, "an older list brings an older value");
        let order = taken(&mut orders, [Some("3"), Some("3")]);
        assert_eq!(order, Some((Part::Whole, "edge.io/restart-whole=3".to_owned())));
        assert_eq!(taken(&mut orders, [Some("3"), Some("3")]), None);
    }

    #[test]
    fn what_is_remembered_has_an_end() {
        let mut orders = Orders::default();
        for n in 0..100 {
            assert!(orders.take([Some(&"x".repeat(n * 100)), None]).is_some());
        }
        let text = serde_json::to_string(&orders).unwrap();
        assert!(text.len() < 600, "{text}");
        assert!(orders.take([Some(&"x".repeat(9900)), None]).is_none());
    }
}
