//! Shares of tenants on the command line: `NAME=W`.

use super::error::CliError;
use crate::server::limits::is_tenant;
use std::collections::HashSet;
use std::str::FromStr;
use std::sync::Arc;

/// A tenant and its share of the engine, beside the 1 of those that are not named.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantWeight {
    name: Arc<str>,
    /// 0.01 to 100.
    weight: f64,
}

impl FromStr for TenantWeight {
    type Err = String;

    /// `NAME=W`. The name may hold `=` itself: the last one counts.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, weight) = text.rsplit_once('=').ok_or("is not NAME=W")?;
        if name.is_empty() || !is_tenant(name) {
            return Err(format!("name {name:?} is not 1 to 64 visible ASCII characters"));
        }
        match weight.parse::<f64>() {
            Ok(weight) if (0.01..=100.0).contains(&weight) => Ok(Self { name: name.into(), weight }),
            _ => Err(format!("weight {weight:?} is not a number from 0.01 to 100")),
        }
    }
}

/// What the engine takes. A tenant that is named twice is an error.
pub fn distinct(weights: Vec<TenantWeight>) -> Result<Vec<(Arc<str>, f64)>, CliError> {
    let mut names = HashSet::new();
    if let Some(twice) = weights.iter().find(|one| !names.insert(Arc::clone(&one.name))) {
        return Err(CliError::Usage(format!(
            "--tenant-weight {}={}: is the second of its name",
            twice.name, twice.weight
        )));
    }
    Ok(weights.into_iter().map(|one| (one.name, one.weight)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_has_a_name_and_a_number() {
        let read = |text: &str| text.parse::<TenantWeight>().map(|one| (one.name.to_string(), one.weight));
        assert_eq!(read("a=1"), Ok(("a".into(), 1.0)));
        assert_eq!(read("team/b=c=0.01"), Ok(("team/b=c".into(), 0.01)));
        assert_eq!(read("a=1e2"), Ok(("a".into(), 100.0)));
        let long = "x".repeat(65);
        for bad in ["a", "=1", "a=", "a=0", "a=0.009", "a=100.1", "a=-1", "a=NaN", "a=inf", "a b=1", "ä=1", "a=1x"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read(&format!("{long}=1")).is_err());
        assert!(read("a b=1").is_err_and(|reason| reason.contains("a b")));
        assert!(read("a=7e7").is_err_and(|reason| reason.contains("7e7")));
    }

    #[test]
    fn a_name_stands_once() {
        let list = |texts: &[&str]| distinct(texts.iter().map(|text| text.parse().unwrap()).collect());
        assert_eq!(list(&["a=1", "b=2"]).unwrap(), [("a".into(), 1.0), ("b".into(), 2.0)]);
        let error = list(&["a=1", "b=2", "a=3"]).unwrap_err().to_string();
        assert!(error.contains("--tenant-weight a=3"), "{error}");
    }
}
