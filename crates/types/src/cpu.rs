//! CPUs as guests see them: what hosts can give, the models that are known, and the baseline that the hosts of
//! a cluster share. Names are QEMU's. Pure: nothing here asks a host.
//!
//! A guest that sees no more than the baseline can go to any host of the cluster while it runs. It keeps what it
//! has seen until its power is cycled, so a baseline that changes concerns later starts only.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::host::Accelerator;

/// Features that baselines may have beyond those of the models: mitigations that came after them.
const MITIGATIONS: [&str; 17] = [
    "amd-no-ssb",
    "amd-ssbd",
    "fb-clear",
    "gds-no",
    "ibpb",
    "ibrs",
    "md-clear",
    "pdpe1gb",
    "rfds-clear",
    "rfds-no",
    "spec-ctrl",
    "ssb-no",
    "ssbd",
    "stibp",
    "tsa-sq-no",
    "tsx-ctrl",
    "virt-ssbd",
];
/// Features that guests only get with a model that has them: what hosts switch off at will, counters, and
/// what changes how much state a guest has.
const ONLY_WITH_MODEL: [&str; 9] = [
    "amx-bf16",
    "amx-fp16",
    "amx-int8",
    "amx-tile",
    "bus-lock-detect",
    "hle",
    "perfctr-core",
    "rtm",
    "tsx-ldtrk",
];
/// The model that every host runs.
const FLOOR: &str = "qemu64";
/// Baselines that are kept once for all who have them. There are a handful in a cluster's life.
const MOST_SHARED: usize = 1_000;

/// What guests can be given on a host, as its QEMU and accelerator have told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestCpu {
    /// Who made the host's CPUs: `GenuineIntel`, `AuthenticAMD`, …
    pub vendor: String,
    /// Sorted; of those that [`is_known`].
    pub features: Vec<String>,
    /// The known models that guests get wholly here, sorted.
    pub models: Vec<String>,
}

/// What a guest sees of a CPU: a model, and features beyond it. Written as QEMU is told:
/// `Westmere,+avx,+avx2`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuBaseline(Arc<str>);

/// Why a text is no baseline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no CPU baseline; use auto, none, a model such as {FLOOR} or Haswell-noTSX, or one with features \
         such as Westmere,+avx,+avx2"
)]
pub struct CpuBaselineError(String);

impl CpuBaseline {
    fn of(model: &str, extras: impl IntoIterator<Item = impl fmt::Display>) -> Self {
        let extras = extras.into_iter().map(|extra| format!(",+{extra}"));
        Self::shared(&format!("{model}{}", extras.collect::<String>()))
    }

    /// The same text lies in memory once, however many VMs have it.
    fn shared(text: &str) -> Self {
        static SHARED: LazyLock<Mutex<HashSet<Arc<str>>>> = LazyLock::new(Mutex::default);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = shared.get(text) {
            return Self(found.clone());
        }
        let new: Arc<str> = text.into();
        if shared.len() < MOST_SHARED {
            shared.insert(new.clone());
        }
        Self(new)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn model(&self) -> &str {
        self.0.split(',').next().unwrap_or_default()
    }

    /// Features beyond the model's.
    pub fn extras(&self) -> impl Iterator<Item = &str> {
        self.0.split(',').skip(1).map(|extra| extra.trim_start_matches('+'))
    }

    /// All that a host must have for it, sorted. Of an unknown model that is only what is beyond it.
    pub fn features(&self) -> Vec<&str> {
        let model =
            model(self.model()).into_iter().flat_map(|model| model.features.iter().copied());
        let all: BTreeSet<_> = model.chain(self.extras()).collect();
        all.into_iter().collect()
    }

    /// What a host lacks for it, sorted; empty if guests can have it there.
    pub fn lacking(&self, host: &GuestCpu, accelerator: Accelerator) -> Vec<Cow<'_, str>> {
        let has = |feature: &&str| host.features.iter().any(|own| own == feature);
        let missing = self.features().into_iter().filter(|feature| !has(feature));
        let mut missing: Vec<_> = missing.map(Cow::Borrowed).collect();
        let whole = host.models.iter().any(|own| own == self.model());
        if missing.is_empty() && !(whole && is_made_for(self.model(), host, accelerator)) {
            missing.push(format!("the model {}", self.model()).into());
        }
        missing
    }
}

impl FromStr for CpuBaseline {
    type Err = CpuBaselineError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || CpuBaselineError(text.to_owned());
        let mut parts = text.split(',');
        let known = parts.next().is_some_and(|name| model(name).is_some());
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        let is_extra = |part: &str| {
            let name = part.strip_prefix('+');
            name.is_some_and(|name| (1..=32).contains(&name.len()) && name.bytes().all(allowed))
        };
        if !known || text.len() > 4096 || !parts.all(is_extra) {
            return Err(error());
        }
        Ok(Self::shared(text))
    }
}

impl TryFrom<String> for CpuBaseline {
    type Error = CpuBaselineError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}
impl From<CpuBaseline> for String {
    fn from(baseline: CpuBaseline) -> Self {
        baseline.as_str().to_owned()
    }
}
impl fmt::Display for CpuBaseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for CpuBaseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

fn text_schema(description: &str) -> RefOr<Schema> {
    let schema = ObjectBuilder::new().schema_type(Type::String).description(Some(description));
    RefOr::T(Schema::Object(schema.build()))
}

impl PartialSchema for CpuBaseline {
    fn schema() -> RefOr<Schema> {
        text_schema(
            "What a guest sees of a CPU: a model, and features beyond it, as in `Westmere,+avx,+avx2`.",
        )
    }
}
impl ToSchema for CpuBaseline {}

/// What the VMs of a cluster get that ask for no CPU model themselves. Written `auto`, `none`, or as a
/// [`CpuBaseline`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BaselineSetting {
    /// The most that all hosts have.
    #[default]
    Auto,
    /// All that the host has: only hosts with the same CPU and QEMU can take such a VM while it runs.
    None,
    /// This one. Hosts that lack some of it take no VMs that would get it.
    Fixed(CpuBaseline),
}

impl FromStr for BaselineSetting {
    type Err = CpuBaselineError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            other => other.parse().map(Self::Fixed),
        }
    }
}
impl TryFrom<String> for BaselineSetting {
    type Error = CpuBaselineError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}
impl From<BaselineSetting> for String {
    fn from(setting: BaselineSetting) -> Self {
        setting.to_string()
    }
}
impl fmt::Display for BaselineSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Fixed(baseline) => baseline.fmt(f),
        }
    }
}
impl PartialSchema for BaselineSetting {
    fn schema() -> RefOr<Schema> {
        text_schema(
            "`auto`, `none`, or a CPU model with features beyond it, as in `Westmere,+avx,+avx2`.",
        )
    }
}
impl ToSchema for BaselineSetting {}

/// The baseline as it stands: what VMs get that start now, which hosts hold it back, and which VMs run with
/// something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CpuBaselineReport {
    pub setting: BaselineSetting,
    /// Absent: VMs see all that their host has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<CpuBaseline>,
    /// Why there is none, when there should be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// All that it consists of, sorted.
    pub features: Vec<String>,
    /// Hosts that cannot give it, or hold it back, by name; at most 100.
    pub hosts: Vec<BaselineHost>,
    /// VMs that run with something else until their power is cycled.
    pub other_vms: u64,
    /// The first 100 of those by name.
    pub other_vm_names: Vec<String>,
}

/// A host that is less than the others, or than the baseline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BaselineHost {
    pub host: String,
    /// It takes no VMs that get the baseline.
    pub below: bool,
    /// What it lacks of the baseline; or, if it is not below it, what another host has and this one holds back.
    pub missing: Vec<String>,
}

/// A CPU model that is known.
#[derive(Debug)]
pub struct CpuModel {
    pub name: &'static str,
    maker: Maker,
    /// Beyond what all models have, sorted.
    pub features: Vec<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    Intel,
    Amd,
    Any,
}

impl Maker {
    /// Whose models fit a host. An emulator is whatever it is told to be.
    fn of(host: &GuestCpu, accelerator: Accelerator) -> Option<Self> {
        match (accelerator, host.vendor.as_str()) {
            (Accelerator::Tcg, _) => None,
            (Accelerator::Kvm, "GenuineIntel") => Some(Self::Intel),
            (Accelerator::Kvm, "AuthenticAMD") => Some(Self::Amd),
            (Accelerator::Kvm, _) => Some(Self::Any),
        }
    }
}

/// All models that are known, each maker's from the least to the best.
pub fn models() -> &'static [CpuModel] {
    static MODELS: LazyLock<Vec<CpuModel>> = LazyLock::new(|| {
        let lines = include_str!("cpu/models.txt").lines();
        lines.filter(|line| !line.starts_with('#')).filter_map(read_model).collect()
    });
    &MODELS
}

fn read_model(line: &'static str) -> Option<CpuModel> {
    let (head, features) = line.split_once(':')?;
    let (maker, name) = head.split_once(' ')?;
    let maker = match maker {
        "Intel" => Maker::Intel,
        "AMD" => Maker::Amd,
        _ => Maker::Any,
    };
    Some(CpuModel { name, maker, features: features.split_whitespace().collect() })
}

/// A known model by its name.
pub fn model(name: &str) -> Option<&'static CpuModel> {
    models().iter().find(|model| model.name == name)
}

/// Whether a feature is one that baselines are made of; of others hosts need not tell.
pub fn is_known(feature: &str) -> bool {
    static KNOWN: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
        let of_models = models().iter().flat_map(|model| model.features.iter().copied());
        of_models.chain(MITIGATIONS).collect()
    });
    KNOWN.contains(feature)
}

fn is_made_for(name: &str, host: &GuestCpu, accelerator: Accelerator) -> bool {
    let Some(of) = Maker::of(host, accelerator) else { return true };
    model(name).is_none_or(|model| [of, Maker::Any].contains(&model.maker))
}

/// The most that all of these hosts can give to a guest: the best model, with what else they share.
/// `None` without hosts, or if not even the least model runs on all of them.
pub fn common_baseline(hosts: &[(&GuestCpu, Accelerator)]) -> Option<CpuBaseline> {
    let ((first, _), rest) = hosts.split_first()?;
    let mut shared: BTreeSet<&str> = first.features.iter().map(String::as_str).collect();
    for (host, _) in rest {
        let own: HashSet<&str> = host.features.iter().map(String::as_str).collect();
        shared.retain(|feature| own.contains(feature));
    }
    let makers = || hosts.iter().filter_map(|(host, accelerator)| Maker::of(host, *accelerator));
    let maker = makers().next().unwrap_or(Maker::Intel);
    let maker = if makers().any(|other| other != maker) { Maker::Any } else { maker };
    let possible = |model: &&CpuModel| {
        let whole = |host: &GuestCpu| host.models.iter().any(|own| own == model.name);
        model.features.iter().all(|feature| shared.contains(feature))
            && hosts.iter().all(|(host, _)| whole(host))
    };
    let best = models().iter().rev().filter(|model| model.maker == maker).find(possible);
    let best = best.or_else(|| model(FLOOR).filter(possible))?;
    let extras = shared.into_iter().filter(|feature| {
        is_known(feature) && !best.features.contains(feature) && !ONLY_WITH_MODEL.contains(feature)
    });
    Some(CpuBaseline::of(best.name, extras))
}

/// For each of these hosts what another one has and it lacks, sorted.
pub fn held_back<'a>(hosts: &[&'a GuestCpu]) -> Vec<Vec<&'a str>> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for host in hosts {
        host.features.iter().for_each(|feature| *counts.entry(feature).or_default() += 1);
    }
    counts.retain(|feature, count| *count < hosts.len() && !ONLY_WITH_MODEL.contains(feature));
    let lacks = |host: &&GuestCpu| {
        let own: HashSet<&str> = host.features.iter().map(String::as_str).collect();
        counts.keys().copied().filter(|feature| !own.contains(feature)).collect()
    };
    hosts.iter().map(lacks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that runs all models whose features it has.
    fn host(vendor: &str, best: &str, without: &[&str], more: &[&str]) -> GuestCpu {
        let best = model(best).unwrap().features.iter().copied().chain(more.iter().copied());
        let features: BTreeSet<&str> = best.filter(|feature| !without.contains(feature)).collect();
        let runs =
            models().iter().filter(|model| model.features.iter().all(|one| features.contains(one)));
        let mut runs: Vec<_> = runs.map(|model| model.name.to_owned()).collect();
        runs.sort_unstable();
        let features = features.into_iter().map(str::to_owned).collect();
        GuestCpu { vendor: vendor.to_owned(), features, models: runs }
    }

    fn check(hosts: &[(&GuestCpu, Accelerator)], expected: &str) {
        let baseline = common_baseline(hosts);
        assert_eq!(baseline.as_ref().map_or("-", CpuBaseline::as_str), expected);
        for (host, accelerator) in hosts {
            let lacking = baseline.as_ref().map(|it| it.lacking(host, *accelerator));
            assert_eq!(lacking.unwrap_or_default(), Vec::<&str>::new(), "every host can give it");
        }
    }

    #[test]
    fn a_baseline_is_the_best_model_of_all_hosts_and_what_else_they_share() {
        use Accelerator::{Kvm, Tcg};
        let intel =
            |best, without: &[&str], more: &[&str]| host("GenuineIntel", best, without, more);
        let (old, new) =
            (intel("SandyBridge", &[], &["md-clear"]), intel("Icelake-Server", &[], &["md-clear"]));
        check(&[], "-");
        check(&[(&old, Kvm)], "SandyBridge,+md-clear");
        check(&[(&new, Kvm), (&old, Kvm)], "SandyBridge,+md-clear");
        let plain = intel("SandyBridge", &[], &[]);
        check(&[(&old, Kvm), (&plain, Kvm)], "SandyBridge");
        let no_tsx = intel("Haswell", &["hle"], &[]);
        check(&[(&no_tsx, Kvm)], "Haswell-noTSX");
        let (amd, emulated) =
            (host("AuthenticAMD", "EPYC-Rome", &[], &[]), intel("Westmere", &[], &["avx"]));
        check(&[(&emulated, Tcg)], "Westmere,+avx");
        let of_both = common_baseline(&[(&amd, Kvm), (&new, Kvm)]).unwrap();
        assert_eq!(of_both.model(), "qemu64", "models of one maker do not fit the other's CPUs");
        assert!(of_both.extras().any(|feature| feature == "avx2"), "{of_both}");
        assert_eq!(common_baseline(&[(&amd, Kvm)]).unwrap().model(), "EPYC-Rome");
    }

    #[test]
    fn what_a_host_lacks_and_what_it_holds_back_is_told() {
        let old = host("GenuineIntel", "SandyBridge", &[], &[]);
        let new = host("GenuineIntel", "IvyBridge", &[], &[]);
        let wanted: CpuBaseline = "IvyBridge,+md-clear".parse().unwrap();
        let lacking = wanted.lacking(&new, Accelerator::Kvm);
        assert_eq!(lacking, ["md-clear"]);
        assert_eq!(
            held_back(&[&old, &new]),
            [vec!["erms", "f16c", "fsgsbase", "rdrand", "smep"], vec![]]
        );
        let amd = host("AuthenticAMD", "EPYC", &[], &["tsc-deadline"]);
        let plain: CpuBaseline = "SandyBridge".parse().unwrap();
        assert_eq!(plain.lacking(&amd, Accelerator::Kvm), ["the model SandyBridge"]);
    }

    #[test]
    fn baselines_are_read_and_shared_and_nothing_else_gets_onto_a_command_line() {
        let one: CpuBaseline = "Westmere,+avx,+sse4.2".parse().unwrap();
        assert_eq!(one.extras().collect::<Vec<_>>(), ["avx", "sse4.2"]);
        let again: CpuBaseline =
            serde_json::from_str(&serde_json::to_string(&one).unwrap()).unwrap();
        assert!(Arc::ptr_eq(&one.0, &again.0));
        for wrong in [
            "",
            "host",
            "Nope",
            "Westmere,",
            "Westmere,avx",
            "Westmere,+a=b",
            "Westmere,+avx,-aes",
            "Westmere,+",
        ] {
            assert!(wrong.parse::<CpuBaseline>().is_err(), "{wrong}");
        }
        assert_eq!("auto".parse(), Ok(BaselineSetting::Auto));
        assert_eq!("Westmere".parse::<BaselineSetting>().unwrap().to_string(), "Westmere");
    }
}
