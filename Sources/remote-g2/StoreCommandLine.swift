import ArgumentParser
import Foundation
import NIXL
import NIXLTransfer
import RemoteG2Core
import RemoteG2Runtime
import RemoteG2Store

struct StoreCommandLine: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "store",
    abstract: "Own a worker's host-memory pool and serve it. Normally started by its worker.")

  @Option(help: "Unique in the fleet.") var name: String
  @Option(help: "Numeric address to listen on.") var host = "127.0.0.1"
  @Option(help: "Port for peers; 0 lets the system choose.") var port = 0
  @Option(help: "Folder for socket, lock and log.") var runDir: String?
  @Option(help: "Blocks the pool holds.") var slots: Int
  @Option(help: "Bytes of one block on one rank.") var blockBytes: Int
  @Option(help: "Tensor-parallel ranks; one pool each.") var ranks = 1
  @Option(help: "Seconds to go on serving without a local engine.") var linger = 600.0
  @Option(help: "Of the engine's fingerprint.") var modelDigest: String
  @Option(help: "Of the engine's fingerprint.") var weightEpoch: UInt64 = 0
  @Option(help: "Of the engine's fingerprint.") var layout: String
  @Option(help: "Of the engine's fingerprint.") var hashScheme: String
  @Option(help: "Of the engine's fingerprint.") var numerics: String
  @OptionGroup var transport: TransportOptions

  func run() async throws {
    checkName(name)
    TransportOptions.check(host: host, port: port)
    checkRange("--slots", slots, 1...(1 << 20))
    checkRange("--block-bytes", blockBytes, 64...(1 << 30))
    checkRange("--ranks", ranks, 1...64)
    guard linger >= 0, linger <= 86_400 else {
      fail("--linger \(linger) is not 0 to 86400 seconds")
    }
    transport.prepare(host: host)
    let discovery = NIXLDiscovery(explicitPath: transport.nixlPath)
    if discovery.library == nil {
      FileHandle.standardError.write(
        Data("remote-g2: serving the local engine only. \(discovery.explanation)\n".utf8))
    }
    let configuration = StoreConfiguration(
      name: name,
      fingerprint: Fingerprint(
        modelDigest: modelDigest, weightEpoch: weightEpoch, layout: layout,
        hashScheme: hashScheme, rankCount: UInt32(ranks), numerics: numerics),
      slotCount: slots, blockBytes: blockBytes, rankCount: ranks, limits: Limits())
    do throws(StoreError) {
      try await StoreProcess.run(
        configuration, host: host, port: port,
        paths: StorePaths(directory: runDirectory(runDir), name: name),
        linger: .nanoseconds(Int64(linger * 1e9)), library: discovery.library
      ) { port, incarnation in
        FileHandle.standardOutput.write(
          Data(
            "{\"event\":\"ready\",\"port\":\(port),\"incarnation\":\"\(incarnation)\"}\n".utf8))
      }
    } catch { fail("\(error)") }
    NIXLLibrary.endProcess(0)
  }
}
