//! Naming rules: what VMs may be called, and names that are counted up.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::name::Name;
use crate::object::{Kind, KindName, Labels, Object};
use crate::vm_requests::SpecError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamingRuleKind;
pub type NamingRule = Object<NamingRuleKind>;

impl Kind for NamingRuleKind {
    const NAME: KindName = KindName::NamingRule;
    const SCHEMA: &'static str = "NamingRule";
    type Spec = NamingRuleSpec;
    type Status = NamingRuleStatus;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamingRuleSpec {
    /// VMs that have all these labels; empty: all VMs.
    #[serde(default)]
    #[schema(inline)]
    pub selector: Labels,
    /// A regular expression that the whole name must match.
    pub pattern: String,
    /// How names are counted up, such as `web-{nn}`: as many digits as there are `n`, at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamingRuleStatus {
    /// The number that was given last.
    pub last: u64,
}

impl NamingRuleSpec {
    /// Whether it is about a VM with these labels.
    pub fn is_about(&self, labels: &Labels) -> bool {
        self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// The name with a number.
    ///
    /// # Errors
    /// There is no template, or it does not make a name with this number.
    pub fn numbered(&self, number: u64) -> Result<Name, SpecError> {
        let wrong = |reason: String| SpecError::new("template", reason);
        let none = || wrong("the rule has none: it only checks names".to_owned());
        let template = self.template.as_deref().ok_or_else(none)?;
        let (before, digits, after) = parts(template).ok_or_else(|| {
            wrong("it holds one counter, one to six `n` in braces, such as web-{nn}".to_owned())
        })?;
        let text = format!("{before}{number:0digits$}{after}");
        text.parse().map_err(|error| wrong(format!("{error}")))
    }
}

/// What is before the counter, how many digits it has, and what is after.
fn parts(template: &str) -> Option<(&str, usize, &str)> {
    let (before, rest) = template.split_once('{')?;
    let (counter, after) = rest.split_once('}')?;
    let counts = !counter.is_empty() && counter.len() <= 6 && counter.chars().all(|c| c == 'n');
    (counts && !after.contains(['{', '}'])).then_some((before, counter.len(), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_count() {
        let rule = |template: &str| NamingRuleSpec {
            selector: Labels::new(),
            pattern: ".*".to_owned(),
            template: Some(template.to_owned()),
        };
        let check = |template, number, expected: Option<&str>| {
            let name = rule(template).numbered(number).ok().map(|name| name.to_string());
            assert_eq!(name.as_deref(), expected, "{template}");
        };
        check("web-{nn}", 7, Some("web-07"));
        check("web-{nn}", 107, Some("web-107"));
        check("{n}-db", 1, Some("1-db"));
        for wrong in
            ["web", "web-{}", "web-{m}", "web-{nnnnnnn}", "{n}{n}", "Web-{n}", "a b{n}", "}{"]
        {
            check(wrong, 1, None);
        }
    }
}
