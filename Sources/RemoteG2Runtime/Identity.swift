internal import ContentDigest
internal import Crypto
internal import Glibc
internal import KVLayout
public import LlamaModel
package import RemoteG2Core
public import RemoteG2Engine

extension RemoteG2Core.HashFunction {
  /// SHA-256, for block keys.
  package static let sha256 = RemoteG2Core.HashFunction(name: "sha256-chain/1") {
    Array(SHA256.hash(data: $0))
  }
}

/// What makes two workers' blocks interchangeable.
package struct ModelIdentity: Sendable, Equatable {
  package let modelDigest: String
  let layout: BlockLayout
  package let numerics: String

  /// - Parameter weightEpoch: Raised by whoever changes weights in place.
  package func fingerprint(weightEpoch: UInt64 = 0) -> Fingerprint {
    Fingerprint(
      modelDigest: modelDigest, weightEpoch: weightEpoch, layout: layout.canonicalText,
      hashScheme: RemoteG2Core.HashFunction.sha256.name, rankCount: UInt32(layout.rankCount),
      numerics: numerics)
  }

  package func chain(weightEpoch: UInt64 = 0) -> KeyChain {
    KeyChain(
      scope: KeyScope(
        modelDigest: modelDigest, weightEpoch: weightEpoch, layoutDigest: layout.canonicalText,
        numerics: numerics),
      tokensPerBlock: layout.tokensPerBlock, hash: .sha256)
  }

  /// Digests the file, and the KV bits this engine computes for a fixed probe.
  package init(_ model: LlamaModel, path: String) {
    modelDigest = Self.digest(ofFile: path)
    layout = model.layout
    numerics = Self.probe(model)
  }

  private static func digest(ofFile path: String) -> String {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    precondition(descriptor >= 0, "\(path) was readable a moment ago")
    defer { close(descriptor) }
    var hash = SHA256()
    var buffer = [UInt8](repeating: 0, count: 1 << 20)
    while true {
      let count = read(descriptor, &buffer, buffer.count)
      guard count > 0 else { break }
      hash.update(data: buffer[..<count])
    }
    return hash.finalize().map { String(hexText(UInt64($0)).suffix(2)) }.joined()
  }

  /// KV of 64 fixed tokens: equal only where the arithmetic gives equal bits.
  private static func probe(_ model: LlamaModel) -> String {
    let tokenCount = 64
    let blockCount = (tokenCount + model.layout.tokensPerBlock - 1) / model.layout.tokensPerBlock
    let byteCount = blockCount * model.layout.blockBytes
    let memory = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: 4096)
    defer { memory.deallocate() }
    memset(memory, 0, byteCount)
    let vocabulary = Int32(model.configuration.vocabularySize)
    let tokens = (0..<Int32(tokenCount)).map { ($0 &* 2_654_435) % vocabulary }.map(abs)
    _ = model.forward(
      [
        SequenceSpan(
          tokens: tokens, position: 0, blocks: (0..<blockCount).map(Int32.init),
          wantsLogits: false)
      ], pool: memory)
    return "kv64:"
      + ContentDigest.of(UnsafeRawBufferPointer(start: memory, count: byteCount)).description
  }
}

extension LlamaModel: ForwardPass {
  public var contextLength: Int { configuration.contextLength }
  public var vocabularySize: Int { configuration.vocabularySize }
  public var endTokens: Set<Int32> { tokenizer.endTokens }
}
