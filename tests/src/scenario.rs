//! A scenario from its workloads to its checks.

use anyhow::{Result, bail};

use crate::{
    check::{Checks, Verdict},
    fixture::{Language, Recorder},
    host::can_record,
};

/// Records a scenario from both publishers and checks everything that holds for every workload.
/// Where nothing can be recorded it says so and passes.
pub fn whole_path(scenario: &str, more: impl Fn(&mut Checks<'_>)) -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    for language in Language::BOTH {
        settled(|| {
            let recording = Recorder::new()?.scenario(language, scenario)?;
            let mut checks = Checks::new(format!("{scenario} {language:?}"), &recording)?;
            checks.everything();
            more(&mut checks);
            Ok(checks.finish())
        })?;
    }
    Ok(())
}

/// Recordings in which the kernel's clocks may say otherwise before it is our fault.
const ATTEMPTS: usize = 3;

/// Records again while only the kernel's clocks disagree. Anything else fails at once.
pub fn settled(mut attempt: impl FnMut() -> Result<Verdict>) -> Result<()> {
    let mut disagreement = String::new();
    for _ in 0..ATTEMPTS {
        match attempt()? {
            Verdict::Holds => return Ok(()),
            Verdict::ClocksDisagree(text) => {
                println!("the kernel's clocks say otherwise: {text}");
                disagreement = text;
            }
        }
    }
    bail!("the kernel's clocks say otherwise in each of {ATTEMPTS} recordings: {disagreement}")
}
