//! The `[data]` section of a preset.

use serde::{Deserialize, Serialize};

use super::{DataSource, Dataset, DatasetError};

/// Where the data of a recipe come from, and what of them it leaves out. In TOML one table: the source's fields, and
///
/// ```toml
/// leave_out = ["PEN"]
/// unlabelled = true
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DataConfig {
    /// Where they come from.
    #[serde(flatten)]
    pub source: DataSource,
    /// Names of classes that are not trained on: to see whether a model finds what it never saw anomalous.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leave_out: Vec<String>,
    /// Whether all samples are of one class: for a network that is not told the class.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unlabelled: bool,
}

impl DataConfig {
    /// Loads what is not left out: [`Dataset::without`].
    ///
    /// # Errors
    /// As [`DataSource::load`] and [`Dataset::without`].
    pub fn load(&self) -> Result<Dataset, DatasetError> {
        let all = self.source.load()?;
        let kept = if self.leave_out.is_empty() { all } else { all.without(&self.leave_out)? };
        Ok(if self.unlabelled { kept.unlabelled() } else { kept })
    }

    /// Loads what is left out: [`Dataset::only`].
    ///
    /// # Errors
    /// As [`DataSource::load`] and [`Dataset::only`]; also where nothing is left out.
    pub fn load_left_out(&self) -> Result<Dataset, DatasetError> {
        self.source.load()?.only(&self.leave_out)
    }
}

impl From<DataSource> for DataConfig {
    fn from(source: DataSource) -> Self {
        Self { source, leave_out: Vec::new(), unlabelled: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;

    fn parse(text: &str) -> Result<DataConfig, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn a_section_is_its_source_with_what_is_left_out() {
        let plain = parse("kind = \"waves\"").unwrap();
        assert_eq!(plain, DataSource::Waves.into());
        assert_eq!(toml::to_string(&plain).unwrap(), "kind = \"waves\"\n", "files of older versions stay as they were");
        let text = "kind = \"csv\"\npath = \"x.csv\"\nleave_out = [\"a\", \"b\"]\n\n[table]\nwindow = 8\n";
        let section = parse(text).unwrap();
        assert_eq!(section.leave_out, ["a", "b"]);
        assert!(matches!(&section.source, DataSource::Csv { table, .. } if table.window == Some(8)));
        assert_eq!(parse(&toml::to_string(&section).unwrap()).unwrap(), section);
        let error = parse("kind = \"csv\"\npath = \"x.csv\"\nleaveout = [\"a\"]").unwrap_err().to_string();
        assert!(error.contains("unknown field `leaveout`"), "{error}");
    }

    #[test]
    fn both_parts_together_are_the_whole() {
        let section = DataConfig { leave_out: vec!["triangle".to_owned()], ..DataSource::Waves.into() };
        let (all, kept, left_out) = (synthetic::waves(), section.load().unwrap(), section.load_left_out().unwrap());
        assert_eq!(kept.class_names, ["sine", "square"]);
        assert_eq!(
            (left_out.class_names.clone(), left_out.labels.clone()),
            (vec!["triangle".to_owned()], vec![0; 200])
        );
        let natural = |set: &Dataset| -> Vec<Vec<u32>> {
            let sample = |index| set.natural(index).unwrap().iter().map(|value| value.to_bits()).collect();
            (0..set.len()).map(sample).collect()
        };
        let of = |label: u16| -> Vec<usize> { (0..all.len()).filter(|&index| all.labels[index] == label).collect() };
        let whole = natural(&all);
        assert_eq!(natural(&left_out), of(1).iter().map(|&index| whole[index].clone()).collect::<Vec<_>>());
        for (label, name) in [(0, "sine"), (2, "square")] {
            for index in of(label) {
                let place = natural(&kept).iter().position(|sample| *sample == whole[index]).expect("a sample is gone");
                assert_eq!(kept.class_names[usize::from(kept.labels[place])], name);
                assert_eq!(kept.held_out[place], all.held_out[index], "sides of the split are not changed");
            }
        }
        assert_ne!(kept.sha256, all.sha256);
        assert_eq!(kept.channels_scale, all.channels_scale);
    }

    #[test]
    fn unlabelled_samples_are_the_same_samples() {
        let section = DataConfig { leave_out: vec!["sine".to_owned()], unlabelled: true, ..DataSource::Waves.into() };
        let text = toml::to_string(&section).unwrap();
        assert_eq!(parse(&text).unwrap(), section);
        let labelled = DataConfig { unlabelled: false, ..section.clone() }.load().unwrap();
        let set = section.load().unwrap();
        assert_eq!((set.class_names.clone(), set.labels.clone()), (vec!["all".to_owned()], vec![0; 400]));
        assert_eq!((&set.values, &set.held_out), (&labelled.values, &labelled.held_out));
        assert_ne!(set.sha256, labelled.sha256);
    }

    #[test]
    fn names_that_are_none_and_nothing_that_is_left_are_refused() {
        let section = |names: &[&str]| DataConfig {
            leave_out: names.iter().map(|&name| name.into()).collect(),
            ..DataSource::Waves.into()
        };
        for load in [DataConfig::load, DataConfig::load_left_out] {
            let error = load(&section(&["sine", "saw"])).unwrap_err().to_string();
            assert!(error.contains("there is no class saw; the classes are sine, triangle, square"), "{error}");
        }
        let error = section(&["sine", "triangle", "square"]).load().unwrap_err().to_string();
        assert!(error.contains("leaves no training sample"), "{error}");
        assert!(section(&[]).load_left_out().unwrap_err().to_string().contains("leaves nothing out"));
    }
}
