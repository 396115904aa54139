//! Single fields of a recipe set from the command line: `train.batch=32`.

use anyhow::{Context, bail};
use serde::Deserialize;
use toml::{Table, Value};

use super::Preset;

impl Preset {
    /// The recipe with other values of some fields. Each setting is `KEY=VALUE`: the key as in the TOML file, with dots,
    /// numbers for the elements of a list (`distill.stages.0.steps`); the value as in TOML, or a bare word for text.
    /// A new `kind` drops the fields of the kind before.
    ///
    /// # Errors
    /// A setting that is not of this form, names no field or has a value that the field cannot have; the error names it.
    pub fn with(&self, settings: &[String]) -> anyhow::Result<Self> {
        let parsed = settings.iter().map(|setting| parse(setting)).collect::<anyhow::Result<Vec<_>>>()?;
        let apply = |without: Option<usize>| -> anyhow::Result<Self> {
            let mut table = Table::try_from(self).context("a recipe is a table")?;
            for (index, (path, value)) in parsed.iter().enumerate().filter(|(index, _)| Some(*index) != without) {
                set(&mut table, path, value.clone()).with_context(|| format!("--set {}", settings[index]))?;
            }
            // The parser's message has a line for where it is.
            let message = |error: toml::de::Error| anyhow::anyhow!(error.to_string().trim().replace('\n', " "));
            let mut preset = Self::deserialize(table).map_err(message)?;
            preset.diffusion.schedule = preset.diffusion.schedule.load(std::path::Path::new(""))?;
            Ok(preset)
        };
        apply(None).map_err(|error| {
            // To blame is a setting without which the rest is a recipe.
            match (0..settings.len()).find(|&index| apply(Some(index)).is_ok()) {
                Some(index) if !error.to_string().starts_with("--set") => {
                    error.context(format!("--set {} is not possible", settings[index]))
                }
                _ => error,
            }
        })
    }

    /// The whole recipe as TOML, defaults included.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a recipe is a table of plain values")
    }
}

fn parse(setting: &str) -> anyhow::Result<(Vec<&str>, Value)> {
    let Some((key, text)) = setting.split_once('=') else {
        bail!("--set {setting} is not KEY=VALUE, such as train.batch=32");
    };
    let path: Vec<&str> = key.trim().split('.').collect();
    if path.iter().any(|part| part.is_empty()) {
        bail!("--set {setting}: {key} names no field; `--print-preset` lists them");
    }
    let text = text.trim();
    let value = toml::from_str::<Table>(&format!("value = {text}")).ok().and_then(|mut table| table.remove("value"));
    Ok((path, value.unwrap_or_else(|| Value::String(text.to_owned()))))
}

fn set(table: &mut Table, path: &[&str], value: Value) -> anyhow::Result<()> {
    let (&name, rest) = path.split_first().expect("a path has a part");
    if rest.is_empty() {
        if name == "kind" && table.get(name) != Some(&value) {
            table.clear();
        }
        table.insert(name.to_owned(), value);
        return Ok(());
    }
    let inner = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
    if let (Value::Array(elements), [number, deeper @ ..]) = (&mut *inner, rest) {
        let len = elements.len();
        let element = number.parse().ok().and_then(|number: usize| elements.get_mut(number));
        let element =
            element.with_context(|| format!("{name} has elements 0 to {}, not {number}", len.saturating_sub(1)))?;
        return match element {
            Value::Table(table) if !deeper.is_empty() => set(table, deeper, value),
            element if deeper.is_empty() => {
                *element = value;
                Ok(())
            }
            _ => bail!("{name}.{number} has no fields"),
        };
    }
    if !inner.is_table() {
        *inner = Value::Table(Table::new());
    }
    set(inner.as_table_mut().expect("it was made one"), rest, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::Ema;

    fn with(settings: &[&str]) -> anyhow::Result<Preset> {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        Preset::find("toy").unwrap().with(&settings)
    }

    #[test]
    fn fields_at_every_depth_can_be_set() {
        let preset = with(&[
            "train.batch=32",
            "train.optimizer.ema.sigma_rel=0.1",
            "train.optimizer.betas=[0.8, 0.9]",
            "distill.stages.1.steps=7",
            "diffusion.schedule.kind=constant",
            "diffusion.schedule.beta=0.01",
            "train.optimizer.decay = linear",
        ])
        .unwrap();
        assert_eq!((preset.train.batch, preset.distill.stages[1].steps), (32, 7));
        assert_eq!(preset.train.optimizer.ema, Ema::Power { sigma_rel: 0.1 });
        assert_eq!(preset.train.optimizer.betas, [0.8, 0.9]);
        assert!(preset.to_toml().contains("kind = \"constant\"") && !preset.to_toml().contains("offset"));
    }

    #[test]
    fn a_wrong_setting_is_named() {
        for (setting, wanted) in [
            ("train.bach=32", "unknown field `bach`"),
            ("train.batch=many", "--set train.batch=many"),
            ("train.batch", "is not KEY=VALUE"),
            ("distill.stages.9.rows=1", "stages has elements 0 to 1, not 9"),
            ("nowhere.steps=1", "unknown field `nowhere`"),
        ] {
            let error = format!("{:#}", with(&["train.steps=10", setting, "sample.steps=4"]).unwrap_err());
            assert!(error.contains(wanted) && error.contains(setting), "{setting}: {error}");
        }
    }

    /// What `--print-preset` prints is the recipe: it can be read back.
    #[test]
    fn a_printed_recipe_is_the_recipe() {
        for (name, _) in super::super::NAMED {
            let preset = Preset::find(name).unwrap();
            assert_eq!(toml::from_str::<Preset>(&preset.to_toml()).unwrap(), preset, "{}", preset.to_toml());
        }
        assert_eq!(with(&[]).unwrap(), Preset::find("toy").unwrap());
    }
}
