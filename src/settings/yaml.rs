//! YAML text to a tree in which everything knows its line and column. Knows nothing of our keys.
//!
//! A scalar stays the text that was written: whether `1.70` is a version or a number is for the
//! key to say. Input is bounded in size, depth and number of nodes. Anchors and aliases are refused:
//! a value that stands somewhere else than where it is read hides what a file says.

use granit_parser::{Event, Options, Parser, ScalarStyle, Span};

/// Far beyond any real file; a bound for what a wrong path such as a disk image would cost.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Ten thousand static workers with four keys each fit.
const MAX_NODES: usize = 100_000;
/// The deepest key is three levels down; anything much deeper is a mistake.
const MAX_DEPTH: usize = 16;

/// Where something is written; both count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// A value, and where it stands.
#[derive(Debug)]
pub struct Node {
    pub position: Position,
    pub value: Value,
}

/// What a document is made of.
#[derive(Debug)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A name of a map, where it stands, and its value.
#[derive(Debug)]
pub struct Entry {
    pub name: String,
    pub position: Position,
    pub node: Node,
}

/// What is wrong with a document as YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct YamlError {
    pub position: Position,
    pub message: String,
}

impl Position {
    /// Where a text begins.
    pub const START: Position = Position { line: 1, column: 1 };
}

impl Node {
    /// A scalar that was read from elsewhere, to stand where `position` is.
    pub fn scalar(text: impl Into<String>, position: Position) -> Node {
        Node {
            position,
            value: Value::Scalar(text.into()),
        }
    }
}

/// A list or map whose end has not been seen.
struct Open {
    position: Position,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map(Vec<Entry>, Option<(String, Position)>),
}

/// Reads one document; `None` when it is empty.
///
/// # Errors
/// The first thing that is not YAML, or is YAML that is not taken: tags, anchors, aliases, several
/// documents, names that are not plain text, anything beyond the limits.
pub fn parse(text: &str) -> Result<Option<Node>, YamlError> {
    if text.len() > MAX_BYTES {
        let message = format!("larger than {} KiB", MAX_BYTES / 1024);
        return Err(error(Position::START, message));
    }
    let mut options = Options::default();
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let mut tree = Tree::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|scan| {
            let mark = scan.marker();
            let position = Position {
                line: mark.line().max(1),
                column: mark.col() + 1,
            };
            match scan.info() {
                // Its own word for an alias without its anchor.
                info if info.contains("unknown anchor") => anchored(position),
                info => error(position, info),
            }
        })?;
        tree.take(event, &span)?;
    }
    Ok(tree.root)
}

#[derive(Default)]
struct Tree {
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
    nodes: usize,
}

impl Tree {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), YamlError> {
        let position = Position {
            line: span.start.line().max(1),
            column: span.start.col() + 1,
        };
        if event.tag().is_some() {
            return Err(error(position, "tags (!…) are not taken here"));
        }
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    let message = "a second document; one file is one document";
                    return Err(error(position, message));
                }
                Ok(())
            }
            Event::Alias(_) => Err(anchored(position)),
            Event::Scalar(_, _, anchor, _)
            | Event::SequenceStart(_, anchor, _)
            | Event::MappingStart(_, anchor, _)
                if anchor != 0 =>
            {
                Err(anchored(position))
            }
            Event::Scalar(text, style, ..) => {
                let null = style == ScalarStyle::Plain
                    && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null {
                    Value::Null
                } else {
                    Value::Scalar(text.into_owned())
                };
                self.place(Node { position, value })
            }
            Event::SequenceStart(..) => self.begin(position, Content::List(Vec::new())),
            Event::MappingStart(..) => self.begin(position, Content::Map(Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => {
                let open = self.open.pop().expect("the parser balances its events");
                let value = match open.content {
                    Content::List(items) => Value::List(items),
                    Content::Map(entries, _) => Value::Map(entries),
                };
                self.place(Node {
                    position: open.position,
                    value,
                })
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, position: Position, content: Content) -> Result<(), YamlError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(error(position, "nested too deeply"));
        }
        self.open.push(Open { position, content });
        Ok(())
    }

    /// Puts a finished node where it belongs: into the innermost open list or map.
    fn place(&mut self, node: Node) -> Result<(), YamlError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(error(node.position, "too many values"));
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut parent.content {
            Content::List(items) => items.push(node),
            Content::Map(_, name @ None) => match node.value {
                Value::Scalar(text) => *name = Some((text, node.position)),
                _ => return Err(error(node.position, "a key has to be a name")),
            },
            Content::Map(entries, name) => {
                let (name, position) = name.take().expect("matched above");
                entries.push(Entry {
                    name,
                    position,
                    node,
                });
            }
        }
        Ok(())
    }
}

fn anchored(position: Position) -> YamlError {
    let message = "anchors (&name) and aliases (*name) are not taken here; write the value out";
    error(position, message)
}

fn error(position: Position, message: impl Into<String>) -> YamlError {
    YamlError {
        position,
        message: message.into(),
    }
}
