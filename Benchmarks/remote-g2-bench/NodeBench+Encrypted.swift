import Foundation
import NodeTesting
import RemoteG2Core
import RemoteG2Node

extension NodeBench {
  static let certificatesKey = "REMOTE_G2_BENCH_CERTIFICATES"

  static func files(_ name: String, in folder: String) -> TLSFiles {
    TLSFiles(
      certificate: "\(folder)/\(name).crt", key: "\(folder)/\(name).key",
      authority: "\(folder)/authority.crt")
  }

  static func encrypted() throws {
    print("  the same, encrypted, in turns with one that is not:")
    for bytes in [256 << 10, 1 << 20, 4 << 20] { try encrypted(bytes) }
  }

  /// The same question over an encrypted stream and over one that is not.
  private static func encrypted(_ bytes: Int) throws {
    let count = totalBytes / bytes
    let forge = try CertificateForge()
    let authority = try forge.make("authority", CertificateForge.authority)
    for name in ["a", "b"] {
      _ = try forge.make(name, CertificateForge.named(name), by: authority)
    }
    let open = try Pair(bytes, count: count, prefixes: rounds + 1)
    defer { open.end() }
    let sealed = try Pair(
      bytes, count: count, prefixes: rounds + 1, certificates: forge.folder)
    defer { sealed.end() }
    var (speeds, ratios): ([Double], [Double]) = ([], [])
    for round in 0...rounds {
      let plain = try Bench.seconds { try open.engine.question(keys(round, count), want: count) }
      let secret = try Bench.seconds { try sealed.engine.question(keys(round, count), want: count) }
      guard round > 0 else { continue }
      speeds.append(Double(totalBytes) / secret / 1e9)
      ratios.append(plain / secret)
    }
    print(
      "  " + "\(bytes >> 10) KiB".padding(toLength: 9, withPad: " ", startingAt: 0)
        + String(
          format: "%8.2f GB/s   to one in the open %.2f (%.2f to %.2f)",
          Bench.quantile(speeds, 0.5), Bench.quantile(ratios, 0.5), Bench.quantile(ratios, 0.25),
          Bench.quantile(ratios, 0.75)))
  }
}
