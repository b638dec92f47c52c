//! A model in several files: `NAME-00001-of-00003.gguf` and so on, side by side in one folder.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Files of a model at most; what is known to exist has fewer than a hundred.
const MAX_PARTS: usize = 999;

/// What the name of a part says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartName {
    /// The model's name.
    pub model: String,
    /// From 1.
    pub number: usize,
    pub count: usize,
}

impl PartName {
    /// `None` for a file that is a model of its own.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        Self::of_file(path.file_name()?.to_str()?)
    }

    pub(crate) fn of_file(file: &str) -> Option<Self> {
        let stem = file.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (model, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| {
            let all = text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
            all.then(|| text.parse::<usize>().ok())?
        };
        let (number, count) = (digits(number)?, digits(count)?);
        let fits = !model.is_empty() && (1..=count).contains(&number) && count <= MAX_PARTS;
        fits.then(|| Self { model: model.to_owned(), number, count })
    }

    /// The file name of a part.
    pub(crate) fn file(&self, number: usize) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.model, self.count)
    }

    /// The file names of all parts, in order.
    pub(crate) fn files(&self) -> impl Iterator<Item = String> + '_ {
        (1..=self.count).map(|number| self.file(number))
    }
}

/// All files of the model that a file is of, whether they are there or not: the parts beside it by their
/// names, or the file alone.
pub(crate) fn files_of(path: &Path) -> Vec<PathBuf> {
    match PartName::of(path) {
        Some(name) => name.files().map(|file| path.with_file_name(file)).collect(),
        None => vec![path.to_owned()],
    }
}

/// What the model of a file is called: the file's name without its ending and number.
pub(crate) fn model_name(path: &Path) -> String {
    match PartName::of(path) {
        Some(name) => name.model,
        None => path.file_stem().map(OsStr::to_string_lossy).unwrap_or_default().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_told_from_other_names() {
        let name = PartName::of_file("a-b-00002-of-00003.gguf");
        let name = name.expect("a part");
        assert_eq!((name.model.as_str(), name.number, name.count), ("a-b", 2, 3));
        assert_eq!(name.file(1), "a-b-00001-of-00003.gguf");
        assert_eq!(
            files_of(Path::new("/x/a-b-00002-of-00003.gguf"))[2],
            Path::new("/x/a-b-00003-of-00003.gguf")
        );
        for other in [
            "model.gguf",
            "a-00000-of-00003.gguf",
            "a-00004-of-00003.gguf",
            "a-1-of-3.gguf",
            "-00001-of-00002.gguf",
            "a-00001-of-00002.bin",
            "a-0000x-of-00002.gguf",
            "a-00001-of-99999.gguf",
        ] {
            assert_eq!(PartName::of_file(other), None, "{other}");
        }
    }
}
