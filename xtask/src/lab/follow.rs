//! The lab's console as it comes in: what step the machine is at, what became of each case, and each case's own console.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

/// What came of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// `group/name`.
    pub name: String,
    /// Whether every check held.
    pub passed: bool,
    /// Seconds in dom0's clock, from the guest's creation until dom0 was clean again.
    pub seconds: f64,
    /// Counters, or why it failed.
    pub text: String,
    /// What was negotiated, one line a disk.
    pub notes: Vec<String>,
}

/// Lines by which the machine tells how far it is, and what it does from then on.
const STEPS: [(&str, &str); 3] = [
    ("Xen version", "Xen and the dom0 kernel boot"),
    ("lab: toolstack", "dom0's toolstack starts"),
    ("lab: ready", "the cases run"),
];

/// See the module.
#[derive(Default)]
pub struct Progress {
    step: Option<&'static str>,
    current: Option<String>,
    notes: Vec<String>,
    consoles: BTreeMap<String, Vec<String>>,
    outcomes: Vec<Outcome>,
}

impl Progress {
    /// Takes a line; the outcome that it tells, if it does.
    pub fn line(&mut self, line: &str) -> Option<&Outcome> {
        if let Some((_, step)) = STEPS.iter().find(|(text, _)| line.contains(text)) {
            self.step = Some(step);
        }
        if let Some(name) = line.strip_prefix("lab-case ") {
            self.current = Some(name.to_owned());
            self.notes.clear();
        } else if let Some(note) = line.strip_prefix("lab-note ") {
            self.notes.push(note.to_owned());
        } else if let Some(outcome) = parse(line) {
            self.current = None;
            let outcome = Outcome { notes: std::mem::take(&mut self.notes), ..outcome };
            self.outcomes.push(outcome);
            return self.outcomes.last();
        }
        if let Some(name) = &self.current {
            self.consoles.entry(name.clone()).or_default().push(line.to_owned());
        }
        None
    }

    /// What the machine does at the moment.
    pub fn step(&self) -> String {
        match (&self.current, self.step) {
            (Some(case), _) => format!("{case} runs"),
            (None, step) => step.unwrap_or("QEMU starts").to_owned(),
        }
    }

    /// Whether the cases have begun.
    pub fn is_ready(&self) -> bool {
        self.step == Some(STEPS[2].1)
    }

    /// The results so far.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// Last lines of what the guest of a case printed.
    pub fn guest_lines(&self, case: &str, most: usize) -> Vec<&str> {
        let lines = self.consoles.get(case).map_or(&[][..], Vec::as_slice);
        let guest: Vec<&str> = lines.iter().map(String::as_str).filter(|line| line.starts_with("(d")).collect();
        guest[guest.len().saturating_sub(most)..].to_vec()
    }

    /// Writes each case's console into its folder of evidence.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn write_consoles(&self, folder: &Path) -> anyhow::Result<()> {
        for (name, lines) in &self.consoles {
            let evidence = folder.join(name.replace('/', "-"));
            std::fs::create_dir_all(&evidence)?;
            let file = evidence.join("console.log");
            std::fs::write(&file, lines.join("\n") + "\n")
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    /// What the host says of a case besides: a reason to fail, or a part of the text of one that passed.
    pub fn add(&mut self, case: &str, verdict: Result<String, String>) {
        let Some(outcome) = self.outcomes.iter_mut().find(|outcome| outcome.name == case && outcome.passed) else {
            return;
        };
        match verdict {
            Ok(text) => outcome.text = format!("{}, {text}", outcome.text),
            Err(why) => *outcome = Outcome { passed: false, text: why, ..outcome.clone() },
        }
    }

    /// Adds a failure for each case that has no result, for the reason `why`. `left` is what the agent wrote beside its
    /// console, where a line may have been lost.
    pub fn finish(&mut self, cases: &[String], left: &str, why: &str) {
        for case in cases {
            if self.outcomes.iter().any(|outcome| outcome.name == *case) {
                continue;
            }
            let written = left.lines().filter_map(parse).find(|outcome| outcome.name == *case);
            self.outcomes.push(written.unwrap_or_else(|| Outcome {
                name: case.clone(),
                passed: false,
                seconds: 0.0,
                text: format!("no result: {why}"),
                notes: Vec::new(),
            }));
        }
    }

    /// The results.
    pub fn into_outcomes(self) -> Vec<Outcome> {
        self.outcomes
    }
}

/// `lab-result NAME SECONDS passed|failed TEXT`.
fn parse(line: &str) -> Option<Outcome> {
    let rest = line.strip_prefix("lab-result ")?;
    let mut words = rest.splitn(4, ' ');
    let (name, seconds, verdict) = (words.next()?, words.next()?, words.next()?);
    Some(Outcome {
        name: name.to_owned(),
        passed: verdict == "passed",
        seconds: seconds.parse().ok()?,
        text: words.next().unwrap_or_default().to_owned(),
        notes: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(lines: &[&str]) -> Progress {
        let mut progress = Progress::default();
        for line in lines {
            progress.line(line);
        }
        progress
    }

    #[test]
    fn a_result_has_its_notes_and_its_console() {
        let progress = follow(&[
            "lab: ready",
            "lab-case lab/hash",
            "(d1) nt: something",
            "(XEN) something",
            "lab-note xvde Phy: ring pages 16",
            "lab-result lab/hash 3.0 passed writes 32",
            "lab-case io/random",
            "lab-result io/random 12.5 failed unit 7: zeros",
        ]);
        assert!(progress.is_ready());
        assert_eq!(progress.guest_lines("lab/hash", 5), ["(d1) nt: something"]);
        let [hash, random] = progress.outcomes() else { panic!("two results were given") };
        assert!(hash.passed && hash.notes.len() == 1 && hash.text == "writes 32");
        assert!(!random.passed && random.notes.is_empty() && random.text == "unit 7: zeros");
    }

    #[test]
    fn a_case_without_a_result_has_failed() {
        let cases = ["lab/hash", "lab/grants", "lab/reboot"].map(str::to_owned);
        let mut progress = follow(&["lab-case lab/hash", "lab-result lab/hash 3.0 passed", "lab-result lab/grants"]);
        progress.finish(&cases, "lab-result lab/reboot 9.0 passed reason 1\n", "time was up");
        let outcomes = progress.into_outcomes();
        let passed: Vec<bool> = outcomes.iter().map(|outcome| outcome.passed).collect();
        assert_eq!(passed, [true, false, true]);
        assert_eq!(outcomes[1].text, "no result: time was up");
    }

    #[test]
    fn the_step_is_told() {
        assert_eq!(follow(&[]).step(), "QEMU starts");
        assert_eq!(follow(&["(XEN) Xen version 4.17.7"]).step(), "Xen and the dom0 kernel boot");
        assert!(!follow(&["lab: toolstack"]).is_ready());
        assert_eq!(follow(&["lab: ready", "lab-case lab/hash"]).step(), "lab/hash runs");
    }
}
