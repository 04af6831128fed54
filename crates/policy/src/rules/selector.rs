//! From selectors to members, and from a VM to the rules that select it.

use std::collections::HashMap;

use hostler_types::Labels;

use super::{Group, Selector};

/// A selector whose group has been looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Members<'a> {
    Names(&'a [String]),
    Labels(&'a Labels),
}

impl<'a> Members<'a> {
    /// # Errors
    /// The group's name, if there is none of that name or it is one of groups.
    pub(crate) fn of(selector: &'a Selector, groups: &'a [Group]) -> Result<Self, &'a str> {
        match selector {
            Selector::Names(names) => Ok(Self::Names(names)),
            Selector::Labels(labels) => Ok(Self::Labels(labels)),
            Selector::Group(name) => {
                let group = groups.iter().find(|group| group.name == *name).ok_or(name.as_str())?;
                match &group.members {
                    Selector::Names(names) => Ok(Self::Names(names)),
                    Selector::Labels(labels) => Ok(Self::Labels(labels)),
                    Selector::Group(_) => Err(name),
                }
            }
        }
    }

    pub(crate) fn select(&self, name: &str, labels: &Labels) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|own| own == name),
            Self::Labels(wanted) => has_all(labels, wanted),
        }
    }
}

fn has_all(labels: &Labels, wanted: &Labels) -> bool {
    !wanted.is_empty() && wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Finds the rules of a VM without asking each of them: by its name, and by one label of those
/// that a selector wants, which is then asked for the others.
#[derive(Debug, Clone, Default)]
pub(crate) struct Matcher {
    by_name: HashMap<String, Vec<u32>>,
    by_label: HashMap<(String, String), Vec<(u32, Labels)>>,
}

impl Matcher {
    pub(crate) fn add(&mut self, rule: u32, members: Members<'_>) {
        match members {
            Members::Names(names) => {
                for name in names {
                    self.by_name.entry(name.clone()).or_default().push(rule);
                }
            }
            Members::Labels(labels) => {
                let Some((key, value)) = labels.first_key_value() else { return };
                let own = self.by_label.entry((key.clone(), value.clone())).or_default();
                own.push((rule, labels.clone()));
            }
        }
    }

    /// In ascending order, each once.
    pub(crate) fn rules_of(&self, name: &str, labels: &Labels) -> Vec<u32> {
        let mut rules = self.by_name.get(name).cloned().unwrap_or_default();
        if !self.by_label.is_empty() {
            for (key, value) in labels {
                // A tuple of borrowed texts is not a borrowed tuple; labels are few.
                let selectors = self.by_label.get(&(key.clone(), value.clone()));
                let fitting = selectors.into_iter().flatten();
                rules.extend(
                    fitting.filter(|(_, wanted)| has_all(labels, wanted)).map(|(rule, _)| *rule),
                );
            }
        }
        rules.sort_unstable();
        rules.dedup();
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_matcher_finds_what_the_selectors_say() {
        let names = ["a".to_owned(), "b".to_owned()];
        let (one, two, nothing) =
            (labels(&[("app", "x")]), labels(&[("app", "x"), ("tier", "db")]), labels(&[]));
        let all = [
            Members::Names(&names),
            Members::Labels(&one),
            Members::Labels(&two),
            Members::Labels(&nothing),
        ];
        let mut matcher = Matcher::default();
        for (rule, members) in (0..).zip(all) {
            matcher.add(rule, members);
        }
        for name in ["a", "c"] {
            for own in [&one, &two, &nothing, &labels(&[("app", "y"), ("tier", "db")])] {
                let expected: Vec<u32> =
                    (0..).zip(all).filter(|(_, m)| m.select(name, own)).map(|(r, _)| r).collect();
                assert_eq!(matcher.rules_of(name, own), expected);
            }
        }
    }
}
