# Flattens the YAML (hence JSON) subset that people and tools write in NoCloud
# seeds to lines "path<TAB>value", path parts joined with dots, list items by
# their index. Values have \n, \t and \ escaped, so that printf %b restores
# them. After each list item comes an empty "path.end". Read: block
# and flow collections, quoted scalars, | and > texts, comments. Not read:
# anchors, tags, multi-line plain scalars, more than one document.

{ raw[++count] = $0 }

END {
  line = 1
  node(0, "")
}

function indent_of(text) {
  return match(text, /[^ ]/) ? RSTART - 1 : 0
}

function trim(text) {
  gsub(/^[ \t]+|[ \t]+$/, "", text)
  return text
}

function join(path, key) {
  return path == "" ? key : path "." key
}

function emit(path, value) {
  gsub(/\\/, "\\\\", value)
  gsub(/\n/, "\\n", value)
  gsub(/\t/, "\\t", value)
  print path "\t" value
}

# Moves to the next line with content; false at the end.
function more() {
  while (line <= count && raw[line] ~ /^[ \t]*(#.*)?$|^---|^\.\.\./) line++
  return line <= count
}

# The node that begins on the current line, indented by at least `least`.
function node(least, path,    indent, text) {
  if (!more()) return
  indent = indent_of(raw[line])
  if (indent < least) return
  text = substr(raw[line], indent + 1)
  if (text ~ /^-( |$)/) sequence(indent, path)
  else if (key_length(text)) mapping(indent, path)
  else { line++; scalar(trim(text), path, least - 1) }
}

function sequence(indent, path,    item, before) {
  for (item = 0; more() && indent_of(raw[line]) == indent; item++) {
    if (substr(raw[line], indent + 1) !~ /^-( |$)/) return
    before = substr(raw[line], indent + 2)
    # The dash becomes a space: what follows it is a node of its own.
    raw[line] = sprintf("%" (indent + 1) "s", "") before
    if (trim(before) == "") line++
    node(indent + 1, join(path, item))
    print join(path, item) ".end\t"
  }
}

function mapping(indent, path,    text, length_of_key, key, value) {
  while (more() && indent_of(raw[line]) == indent) {
    text = substr(raw[line], indent + 1)
    length_of_key = key_length(text)
    if (!length_of_key || text ~ /^- /) return
    key = trim(substr(text, 1, length_of_key))
    if (key ~ /^["']/) key = substr(key, 2, length(key) - 2)
    value = trim(substr(text, length_of_key + 2))
    line++
    if (value != "" && value !~ /^#/) scalar(value, join(path, key), indent)
    else if (more() && indent_of(raw[line]) == indent && raw[line] ~ /^ *-( |$)/)
      sequence(indent, join(path, key))
    else if (more() && indent_of(raw[line]) > indent) node(indent + 1, join(path, key))
    else emit(join(path, key), "")
  }
}

# Characters before the colon that ends a key; 0 if the text is no "key: …".
function key_length(text,    quote) {
  if (text ~ /^[\[{]/) return 0
  quote = substr(text, 1, 1)
  if (quote == "\"" || quote == "'") {
    if (match(substr(text, 2), quote " *:( |$)") == 0) return 0
    return RSTART + 1
  }
  return match(text, /:( |$)/) ? RSTART - 1 : 0
}

function scalar(value, path, indent) {
  if (value ~ /^[|>][-+0-9]*( +#.*)?$/) { emit(path, block_text(value, indent)); return }
  if (value ~ /^[\[{"']/) {
    flow = value
    position = 1
    flow_value(path)
    return
  }
  sub(/[ \t]+#.*$/, "", value)
  emit(path, plain(value))
}

function plain(value) {
  return value == "~" || value == "null" ? "" : value
}

function block_text(style, indent,    text, inner, body) {
  inner = -1
  for (; line <= count; line++) {
    if (raw[line] ~ /^ *$/) { body = body "\n"; continue }
    if (indent_of(raw[line]) <= indent) break
    if (inner < 0) inner = indent_of(raw[line])
    text = substr(raw[line], inner + 1)
    body = body text (style ~ /^>/ ? " " : "\n")
  }
  sub(/[ \n]+$/, "", body)
  return style ~ /-/ ? body : body "\n"
}

# Flow style: a recursive descent over `flow`, fed with further lines on need.
function peek(    rest) {
  for (;;) {
    rest = substr(flow, position)
    if (match(rest, /[^ \t]/)) {
      position += RSTART - 1
      return substr(flow, position, 1)
    }
    if (line > count) return ""
    flow = flow " " trim(raw[line++])
  }
}

function flow_value(path,    first, item, key) {
  first = peek()
  if (first == "[") {
    position++
    for (item = 0; peek() != "]" && peek() != ""; item++) {
      flow_value(join(path, item))
      print join(path, item) ".end\t"
      if (peek() == ",") position++
    }
    position++
  } else if (first == "{") {
    position++
    while (peek() != "}" && peek() != "") {
      key = flow_scalar("[:,}]")
      if (peek() == ":") { position++; flow_value(join(path, key)) }
      else emit(join(path, key), "")
      if (peek() == ",") position++
    }
    position++
  } else emit(path, first == "\"" || first == "'" ? flow_scalar("") : plain(flow_scalar("[],}]")))
}

# A quoted scalar, or a plain one that ends before a character of `stops`.
function flow_scalar(stops,    quote, rest, text) {
  quote = peek()
  rest = substr(flow, position + 1)
  if (quote == "'") {
    for (;;) {
      if (!match(rest, /'/)) break
      text = text substr(rest, 1, RSTART - 1)
      position += RSTART
      rest = substr(rest, RSTART + 1)
      if (substr(rest, 1, 1) != "'") break
      text = text "'"
      position++
      rest = substr(rest, 2)
    }
    position++
    return text
  }
  if (quote == "\"") return double_quoted(rest)
  rest = substr(flow, position)
  if (!match(rest, stops)) RSTART = length(rest) + 1
  position += RSTART - 1
  return trim(substr(rest, 1, RSTART - 1))
}

function double_quoted(rest,    text, c) {
  position++
  while (match(rest, /[\\"]/)) {
    c = substr(rest, RSTART, 1)
    text = text substr(rest, 1, RSTART - 1)
    position += RSTART
    if (c == "\"") return text
    c = substr(rest, RSTART + 1, 1)
    text = text (c == "n" ? "\n" : c == "t" ? "\t" : c)
    position++
    rest = substr(rest, RSTART + 2)
  }
  return text rest
}
