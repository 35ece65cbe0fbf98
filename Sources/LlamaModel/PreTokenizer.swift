/// Splits text into the words that BPE works within: first every numeral by itself, then GPT-2's
/// pattern inside each remaining fragment.
enum PreTokenizer {
  private enum Kind { case letter, number, space, other }

  static func words(of text: [Unicode.Scalar]) -> [ArraySlice<Unicode.Scalar>] {
    var words: [ArraySlice<Unicode.Scalar>] = []
    var start = 0
    for index in text.indices where kind(text[index]) == .number {
      append(text[start..<index], to: &words)
      words.append(text[index...index])
      start = index + 1
    }
    append(text[start...], to: &words)
    return words
  }

  private static func append(
    _ fragment: ArraySlice<Unicode.Scalar>, to words: inout [ArraySlice<Unicode.Scalar>]
  ) {
    var rest = fragment
    while let first = rest.first {
      let length = contraction(rest) ?? wordLength(rest, startingWith: first)
      words.append(rest.prefix(length))
      rest = rest.dropFirst(length)
    }
  }

  /// `'s 't 'm 'd 're 've 'll`, lower case only.
  private static func contraction(_ rest: ArraySlice<Unicode.Scalar>) -> Int? {
    guard rest.first == "'", let second = rest.dropFirst().first else { return nil }
    if second == "s" || second == "t" || second == "m" || second == "d" { return 2 }
    guard let third = rest.dropFirst(2).first else { return nil }
    switch (second, third) {
    case ("r", "e"), ("v", "e"), ("l", "l"): return 3
    default: return nil
    }
  }

  private static func wordLength(
    _ rest: ArraySlice<Unicode.Scalar>, startingWith first: Unicode.Scalar
  ) -> Int {
    let body = first == " " ? rest.dropFirst() : rest
    if let next = body.first, kind(next) != .space {
      let wanted = kind(next)
      return rest.count - body.count + body.prefix { kind($0) == wanted }.count
    }
    let run = rest.prefix { kind($0) == .space }.count
    // All but the last space, which belongs to the word after it; at the end, all of them.
    return run > 1 && run < rest.count ? run - 1 : run
  }

  private static func kind(_ scalar: Unicode.Scalar) -> Kind {
    switch scalar.value {
    case 9...13, 32, 0x85, 0xA0, 0x1680, 0x2000...0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000:
      return .space
    case 0x21...0x2F, 0x3A...0x40, 0x5B...0x60, 0x7B...0x7E: return .other
    case 0x30...0x39: return .number
    case 0x41...0x5A, 0x61...0x7A: return .letter
    default: break
    }
    switch scalar.properties.generalCategory {
    case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter:
      return .letter
    case .decimalNumber, .letterNumber, .otherNumber: return .number
    default: return .other
    }
  }
}
