//! A table of keys as a JSON Schema, for editors that complete and check the file.

use super::key::Table;
use serde_json::{Map, Value, json};

/// The schema (draft 2020-12) of the file that sets the keys of `table`.
pub fn json_schema<C: 'static>(table: &Table<C>, title: &str) -> Value {
    let mut root = Map::new();
    let mut short: Map<String, Value> = Map::new();
    for key in table.iter() {
        let mut schema = key.schema.clone();
        if let Some(schema) = schema.as_object_mut() {
            let effect = if key.hot { "Hot" } else { "Restart" };
            let text = format!("{} {effect}; {}.", key.doc, key.allowed);
            schema.insert("description".to_owned(), text.into());
        }
        let properties = match key.section() {
            None => &mut root,
            Some(section) => {
                if key.short {
                    short.insert(section.to_owned(), key.schema.clone());
                }
                let section = root.entry(section).or_insert_with(|| json!({}));
                section.as_object_mut().expect("made above")
            }
        };
        if key.has_file_variant() {
            let file =
                json!({ "type": "string", "description": "The path of a file that holds it." });
            properties.insert(format!("{}_file", key.name()), file);
        }
        properties.insert(key.name().to_owned(), schema);
    }
    let sections: Vec<&str> = table.iter().filter_map(|key| key.section()).collect();
    for (name, properties) in &mut root {
        if sections.contains(&name.as_str()) {
            let section = object(properties.take());
            *properties = match short.remove(name) {
                Some(value) => json!({ "anyOf": [value, section] }),
                None => section,
            };
        }
    }
    let mut schema = object(Value::Object(root));
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = title.into();
    schema
}

/// A section may be there with all its keys commented out.
fn object(properties: Value) -> Value {
    json!({ "type": ["object", "null"], "properties": properties, "additionalProperties": false })
}
