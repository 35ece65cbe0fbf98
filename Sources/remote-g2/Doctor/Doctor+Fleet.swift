import Foundation
import RemoteG2Core
import RemoteG2Node

/// What the doctor says of other nodes, and of an engine's configuration.
extension Doctor {
  /// - Returns: Whether nothing keeps the engine from sharing.
  static func check(engine text: String) -> Bool {
    let configuration: EngineConfiguration
    do throws(EngineConfiguration.Unreadable) {
      configuration = try EngineConfiguration(text)
    } catch {
      fail("--engine-config: \(error)")
    }
    let problems = configuration.problems
    for problem in problems {
      print("engine         \(problem.what)\n               cure: \(problem.cure)")
    }
    if problems.isEmpty { print("engine         nothing in it keeps the server from sharing") }
    return problems.isEmpty
  }

  /// - Parameters:
  ///   - own: What this host's node holds, if there is one.
  ///   - keeper: Of the certificate to show.
  /// - Returns: Whether blocks can be shared with it.
  static func check(member text: String, own: NodeReport?, keeper: TLSKeeper?) -> Bool {
    let parts = text.split(separator: "=", maxSplits: 1)
    guard parts.count == 2 else { fail("--member \(text) is not NAME=HOST:PORT") }
    let name = String(parts[0])
    checkName(name)
    let address = NodeCommandLine.address(String(parts[1]), flag: "--member")
    func line(_ what: String) {
      print("\(("member " + name).padding(toLength: 14, withPad: " ", startingAt: 0)) \(what)")
    }
    let ours = own?.pools.map(terms) ?? []
    let finding: MemberProbe.Finding
    do throws(MemberProbe.Failure) {
      finding = try MemberProbe.look(
        at: address, as: PeerName(name), keeper: keeper, own: ours.first)
    } catch {
      line("NOT USABLE: \(error)")
      return false
    }
    guard finding.name.text == name else {
      line("NOT USABLE: the node there is named \(finding.name): correct --member")
      return false
    }
    line("reachable at \(address), welcomed after \(milliseconds(finding.connectedAfter)) ms")
    line(
      keeper == nil
        ? "NOT ENCRYPTED, and nobody proves who he is (--tls-certificate)"
        : "encrypted, and its certificate is \(name)'s; what engines read over NIXL (--direct) is not"
    )
    if let trip = finding.roundTrip {
      line("a question for a block that it lacks is answered in \(milliseconds(trip)) ms")
    }
    line("announces \(finding.keyCount) blocks in \(finding.pools.count) pools")
    if let rate = finding.bytesPerSecond {
      line(
        "\(finding.provedCount) blocks pulled, each with the digests that it announced: "
          + String(format: "%.2f GB/s", rate / 1e9))
    } else {
      line("no block to try: let one of its engines compute a prompt")
    }
    return alike(finding.pools, ours, own, line)
  }

  private static func alike(
    _ theirs: [PoolTerms], _ ours: [PoolTerms], _ own: NodeReport?, _ line: (String) -> Void
  ) -> Bool {
    guard own != nil else {
      line("no node of this host to compare with (--run-dir, --node)")
      return true
    }
    guard let first = ours.first, let other = theirs.first else {
      line("nothing to compare yet: an engine must have attached on both sides")
      return true
    }
    if ours.contains(where: { theirs.contains($0) }) {
      line("same fingerprint as \(own?.name ?? "") here: blocks are shared")
      return true
    }
    line("NO SHARING: \(first.mismatch(with: other)?.description ?? "another pool")")
    return false
  }

  private static func terms(_ pool: NodeReport.Pool) -> PoolTerms {
    PoolTerms(
      fingerprint: Fingerprint(
        modelDigest: pool.model, weightEpoch: pool.weightEpoch, layout: pool.layout,
        hashScheme: pool.hashScheme, rankCount: UInt32(pool.ranks), numerics: pool.numerics),
      blockBytes: pool.blockBytes)
  }

  private static func milliseconds(_ duration: Duration) -> String {
    String(format: "%.2f", duration.inSeconds * 1e3)
  }
}
