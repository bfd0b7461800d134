//! Reads a configuration from layers (a YAML file, the environment, flags) along a table of keys,
//! and tells everything that is wrong at once, with where it is written. Knows no key: what is
//! read into is a parameter.
//!
//! [`Key`] and [`Table`] are what a configuration declares, by [`section!`] and [`element!`];
//! [`forms`] is how values are written. [`File`], [`Environment`] and [`Flags`] are the layers;
//! each is applied to a [`Draft`]. `document` reads the file, whose tree is `yaml`'s; `json_schema` is the table for editors. `problems` collects what is wrong; [`writers`] says whether
//! somebody is still writing the file.

mod document;
mod draft;
mod element;
mod environment;
pub mod forms;
mod json_schema;
mod key;
mod problems;
mod section;
pub mod writers;
mod yaml;

pub use document::File;
pub use draft::{Draft, Layer, ReadFile, Reading};
pub use element::{Fields, unique};
pub use environment::{Environment, Flag, Flags};
pub use forms::{Form, Masking};
pub use json_schema::json_schema;
pub use key::{Field, Key, Table};
pub use problems::{ConfigErrors, Origin, Problem, Problems, quoted};
pub use yaml::{MAX_BYTES, Node};

pub(crate) use element::element;
pub(crate) use section::section;
