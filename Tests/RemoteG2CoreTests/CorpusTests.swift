import Foundation
import FuzzTargets
import RemoteG2Core
import Testing

/// What the fuzzers have found worth keeping: every input that made some code run that others had not.
@Suite struct `A corpus` {
  private static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().appendingPathComponent("Corpora")

  @Test(arguments: FuzzTarget.allCases)
  func `is read to its end, cut anywhere and changed anywhere`(target: FuzzTarget) throws {
    let file = Self.folder.appendingPathComponent("\(target).hex")
    let inputs = try String(contentsOf: file, encoding: .utf8).split(
      separator: "\n", omittingEmptySubsequences: false)
    #expect(inputs.count > 4, "scripts/fuzz has not been run for it")
    var generator = TestGenerator(seed: 7)
    let kept = inputs.map { text in
      let digits = text.map { UInt8($0.hexDigitValue!) }
      return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
    }
    for bytes in kept + target.seeds {
      bytes.withUnsafeBytes { target.run($0) }
      for _ in 0..<8 {
        let cut = Int.random(in: 0...bytes.count, using: &generator)
        var changed = Array(bytes[..<cut])
        changed.withUnsafeBytes { target.run($0) }
        guard cut > 0 else { continue }
        changed[Int.random(in: 0..<cut, using: &generator)] ^= UInt8.random(
          in: 1...255, using: &generator)
        changed.withUnsafeBytes { target.run($0) }
      }
    }
  }
}
