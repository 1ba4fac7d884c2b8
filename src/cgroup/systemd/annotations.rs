//! Annotations `org.systemd.property.NAME`: properties of the scope that its author sets himself. The value is in
//! GVariant's text format (gvariant-text.5 of GLib), as runc and crun read it: `uint64 5`, `true`, `'text'`,
//! `['a', 'b']`, `@as []`.

use std::collections::HashMap;

use zbus::{Array, ObjectPath, Signature, Structure, Variant};

use super::super::Error;
use super::bus::Property;

const PREFIX: &str = "org.systemd.property.";

/// The properties that annotations ask for, in a fixed order.
pub fn properties(annotations: Option<&HashMap<String, String>>) -> Result<Vec<Property>, Error> {
    let mut properties = Vec::new();
    for (key, text) in annotations.into_iter().flatten() {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        properties
            .push(property(name, text).map_err(|problem| Error::Property { key: key.clone(), problem })?);
    }
    properties.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(properties)
}

fn property(name: &str, text: &str) -> Result<Property, String> {
    if name.len() < 3 {
        return Err("name incorrect: too short".into());
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err("name incorrect: contains non-alphabetic character".into());
    }
    let value = parse(text).map_err(|problem| format!("value {text:?}: {problem}"))?;
    // Units' files have seconds, the bus has microseconds.
    match name.strip_suffix("Sec") {
        Some(stem) if stem.ends_with(|c: char| c.is_ascii_lowercase()) => {
            let value =
                microseconds(&value).ok_or_else(|| format!("value {text:?} is not a number of seconds"))?;
            Ok((format!("{stem}USec"), Variant::U64(value)))
        }
        _ => Ok((name.to_owned(), value)),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as casts saturate")]
fn microseconds(seconds: &Variant<'_>) -> Option<u64> {
    const SECOND: u64 = 1_000_000;
    let whole = match *seconds {
        Variant::F64(value) => return (value >= 0.0).then_some((value * SECOND as f64) as u64),
        Variant::U8(value) => value.into(),
        Variant::U16(value) => value.into(),
        Variant::U32(value) => value.into(),
        Variant::U64(value) => value,
        Variant::I16(value) => u64::try_from(value).ok()?,
        Variant::I32(value) => u64::try_from(value).ok()?,
        Variant::I64(value) => u64::try_from(value).ok()?,
        _ => return None,
    };
    whole.checked_mul(SECOND)
}

/// A value whose type may still depend on what is around it.
enum Node {
    Number(String),
    Text(String),
    Bool(bool),
    Array(Vec<Node>),
    Tuple(Vec<Node>),
    Variant(Box<Node>),
    /// With a type in front: `uint32 5`, `@as []`.
    Typed(Signature, Box<Node>),
}

/// How deep a value may be: as D-Bus has it for arrays and structures together.
const DEPTH: usize = 64;

fn parse(text: &str) -> Result<Variant<'static>, String> {
    let mut parser = Parser { rest: text.trim_start(), depth: 0 };
    let node = parser.node()?;
    if !parser.rest.is_empty() {
        return Err(format!("{:?} is left over", parser.rest));
    }
    value(&node, None)
}

struct Parser<'t> {
    rest: &'t str,
    depth: usize,
}

impl Parser<'_> {
    fn node(&mut self) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(format!("is more than {DEPTH} levels deep"));
        }
        let node = self.shallow();
        self.depth -= 1;
        node
    }

    fn shallow(&mut self) -> Result<Node, String> {
        let first = self.rest.chars().next().ok_or("ends too early")?;
        match first {
            '[' => self.list('[', ']').map(Node::Array),
            '(' => self.list('(', ')').map(Node::Tuple),
            '<' => {
                self.skip(1);
                let inner = self.node()?;
                self.expect('>')?;
                Ok(Node::Variant(Box::new(inner)))
            }
            '\'' | '"' => self.quoted(first).map(Node::Text),
            '@' => {
                let end = self.rest.find(char::is_whitespace).ok_or("a type without a value")?;
                let signature = Signature::try_from(&self.rest[1..end]).map_err(|e| e.to_string())?;
                self.skip(end);
                Ok(Node::Typed(signature, Box::new(self.node()?)))
            }
            _ => self.word(),
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest[bytes..].trim_start();
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        if !self.rest.starts_with(c) {
            return Err(format!("{c:?} is missing before {:?}", self.rest));
        }
        self.skip(c.len_utf8());
        Ok(())
    }

    fn list(&mut self, open: char, close: char) -> Result<Vec<Node>, String> {
        self.expect(open)?;
        let mut nodes = Vec::new();
        while !self.rest.starts_with(close) {
            nodes.push(self.node()?);
            if !self.rest.starts_with(close) {
                self.expect(',')?;
            }
        }
        self.expect(close)?;
        Ok(nodes)
    }

    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.skip(at + 1);
                    return Ok(text);
                }
                '\\' => {
                    let (_, escaped) = chars.next().ok_or("ends within a string")?;
                    text.push(match escaped {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        'u' | 'U' => {
                            let digits = if escaped == 'u' { 4 } else { 8 };
                            let code: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                            let code = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
                            code.ok_or("a bad \\u in a string")?
                        }
                        other => other,
                    });
                }
                c => text.push(c),
            }
        }
        Err("ends within a string".into())
    }

    fn word(&mut self) -> Result<Node, String> {
        let end =
            self.rest.find(|c: char| c.is_whitespace() || ",])>".contains(c)).unwrap_or(self.rest.len());
        let word = self.rest[..end].to_owned();
        self.skip(end);
        let signature = match word.as_str() {
            "true" => return Ok(Node::Bool(true)),
            "false" => return Ok(Node::Bool(false)),
            "boolean" => Signature::Bool,
            "byte" => Signature::U8,
            "int16" => Signature::I16,
            "uint16" => Signature::U16,
            "int32" => Signature::I32,
            "uint32" => Signature::U32,
            "int64" => Signature::I64,
            "uint64" => Signature::U64,
            "double" => Signature::F64,
            "string" => Signature::Str,
            "objectpath" => Signature::ObjectPath,
            "signature" => Signature::Signature,
            _ if word.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
                return Ok(Node::Number(word));
            }
            _ => return Err(format!("{word:?} is neither a value nor a type")),
        };
        Ok(Node::Typed(signature, Box::new(self.node()?)))
    }
}

/// The type of a value that nothing around it tells.
fn infer(node: &Node) -> Result<Signature, String> {
    Ok(match node {
        Node::Number(text) if is_whole(text) => Signature::I32,
        Node::Number(_) => Signature::F64,
        Node::Text(_) => Signature::Str,
        Node::Bool(_) => Signature::Bool,
        Node::Variant(_) => Signature::Variant,
        Node::Typed(signature, _) => signature.clone(),
        Node::Array(nodes) => {
            // One element with a type speaks for all.
            let typed = nodes.iter().find(|node| matches!(node, Node::Typed(..)));
            let real = nodes.iter().find(|node| matches!(node, Node::Number(text) if !is_whole(text)));
            let first = typed.or(real).or(nodes.first()).ok_or("an empty array needs its type, as @as []")?;
            Signature::array(infer(first)?)
        }
        Node::Tuple(nodes) => {
            Signature::structure(nodes.iter().map(infer).collect::<Result<Vec<_>, _>>()?.into_boxed_slice())
        }
    })
}

fn is_whole(number: &str) -> bool {
    number.starts_with("0x") || !number.contains(['.', 'e', 'E'])
}

/// The value of a node, of the type that is expected of it.
fn value(node: &Node, expected: Option<&Signature>) -> Result<Variant<'static>, String> {
    let inferred;
    let signature = match expected {
        Some(signature) => signature,
        None => {
            inferred = infer(node)?;
            &inferred
        }
    };
    let mismatch = || Err(format!("is not of type {signature}"));
    match (node, signature) {
        (Node::Typed(own, inner), _) if own == signature => value(inner, Some(own)),
        (Node::Number(text), _) => number(text, signature),
        (Node::Text(text), Signature::Str) => Ok(Variant::new(text.clone())),
        (Node::Text(text), Signature::ObjectPath) => {
            ObjectPath::try_from(text.clone()).map(Variant::ObjectPath).map_err(|e| e.to_string())
        }
        (Node::Text(text), Signature::Signature) => {
            Signature::try_from(text.as_str()).map(Variant::Signature).map_err(|e| e.to_string())
        }
        (Node::Bool(value), Signature::Bool) => Ok(Variant::Bool(*value)),
        (Node::Variant(inner), Signature::Variant) => Ok(Variant::Variant(Box::new(value(inner, None)?))),
        (Node::Array(nodes), Signature::Array(element)) => {
            let mut array = Array::new(element.signature());
            for node in nodes {
                array.append(value(node, Some(element.signature()))?).map_err(|e| e.to_string())?;
            }
            Ok(Variant::Array(array))
        }
        (Node::Tuple(nodes), Signature::Structure(fields)) if nodes.len() == fields.iter().count() => {
            let mut structure = Structure::builder();
            for (node, field) in nodes.iter().zip(fields.iter()) {
                structure.push_value(value(node, Some(field))?);
            }
            structure.build().map(Variant::Structure).map_err(|e| e.to_string())
        }
        _ => mismatch(),
    }
}

fn number(text: &str, signature: &Signature) -> Result<Variant<'static>, String> {
    let bad = || format!("{text:?} is not a number of type {signature}");
    if *signature == Signature::F64 {
        return text.parse().map(Variant::F64).map_err(|_| bad());
    }
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let magnitude = match digits.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16),
        None if digits.len() > 1 && digits.starts_with('0') => i128::from_str_radix(digits, 8),
        None => digits.parse(),
    };
    let magnitude = magnitude.map_err(|_| bad())?;
    let whole = if negative { magnitude.checked_neg().ok_or_else(bad)? } else { magnitude };
    let value = match signature {
        Signature::U8 => u8::try_from(whole).map(Variant::U8),
        Signature::I16 => i16::try_from(whole).map(Variant::I16),
        Signature::U16 => u16::try_from(whole).map(Variant::U16),
        Signature::I32 => i32::try_from(whole).map(Variant::I32),
        Signature::U32 => u32::try_from(whole).map(Variant::U32),
        Signature::I64 => i64::try_from(whole).map(Variant::I64),
        Signature::U64 => u64::try_from(whole).map(Variant::U64),
        _ => return Err(bad()),
    };
    value.map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_every_type() {
        let strings =
            |texts: &[&str]| Variant::new(texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        for (text, expected) in [
            ("true", Variant::Bool(true)),
            ("7", Variant::I32(7)),
            ("-7", Variant::I32(-7)),
            ("uint64 8000000000", Variant::U64(8_000_000_000)),
            ("int64 -1", Variant::I64(-1)),
            ("@u 010", Variant::U32(8)),
            ("byte 0xff", Variant::U8(255)),
            ("1.5", Variant::F64(1.5)),
            ("'a \\'b\\' \\u00e9'", Variant::new("a 'b' é".to_owned())),
            ("\"x,y\"", Variant::new("x,y".to_owned())),
            ("['a', 'b,]']", strings(&["a", "b,]"])),
            ("@as []", strings(&[])),
            ("[1, uint32 2]", Variant::new(vec![1u32, 2])),
            ("<'x'>", Variant::Variant(Box::new(Variant::new("x".to_owned())))),
            ("('a', true)", Variant::new(("a".to_owned(), true))),
            ("[('a', uint64 1)]", Variant::new(vec![("a".to_owned(), 1u64)])),
        ] {
            // The second element of [1, uint32 2] gives the type of the first.
            assert_eq!(parse(text).as_ref(), Ok(&expected), "{text}");
        }
        for text in
            ["", "x", "uint32 -1", "'x", "[1, 'a']", "[]", "5 6", "@q 70000", "uint64", "[1", "int32 'a'"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn depth_is_limited_and_not_by_the_stack() {
        let nested = |open: &str, close: &str, depth| open.repeat(depth) + "1" + &close.repeat(depth);
        assert!(parse(&nested("[", "]", 20)).is_ok());
        for (open, close) in [("[", "]"), ("(", ")"), ("<", ">"), ("uint32 ", "")] {
            assert!(parse(&nested(open, close, 1_000_000)).unwrap_err().contains("levels"), "{open}");
        }
        assert!(parse("--170141183460469231731687303715884105728").is_err());
    }

    #[test]
    fn names_are_checked_and_seconds_are_microseconds() {
        let property = |name: &str, text: &str| property(name, text);
        assert_eq!(
            property("TimeoutStopSec", "5").unwrap(),
            ("TimeoutStopUSec".into(), Variant::U64(5_000_000))
        );
        assert_eq!(property("TimeoutStopUSec", "uint64 5").unwrap().1, Variant::U64(5));
        assert_eq!(property("FooSec", "1.5").unwrap().1, Variant::U64(1_500_000));
        assert!(property("TimeoutStopSec", "'x'").unwrap_err().contains("seconds"));
        assert!(property("ab", "1").unwrap_err().contains("too short"));
        assert!(property("a-b", "1").unwrap_err().contains("non-alphabetic"));
    }

    #[test]
    fn an_error_names_the_annotation() {
        let annotations = HashMap::from([("org.systemd.property.CollectMode".to_owned(), "oops".to_owned())]);
        let message = properties(Some(&annotations)).unwrap_err().to_string();
        assert!(
            message.contains("org.systemd.property.CollectMode") && message.contains("oops"),
            "{message}"
        );
    }
}
