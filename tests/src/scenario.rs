//! A scenario from its workloads to its checks.

use anyhow::Result;

use crate::{
    check::Checks,
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
        let recording = Recorder::new()?.scenario(language, scenario)?;
        let mut checks = Checks::new(format!("{scenario} {language:?}"), &recording)?;
        checks.everything();
        more(&mut checks);
        checks.finish();
    }
    Ok(())
}
