internal import Collectives
internal import Glibc
public import KVLayout
internal import Linear

/// Activations of one forward pass, kept between passes.
struct ForwardScratch {
  private var storage: [Float] = []

  /// Lends one buffer per size, none of them initialised, for the time of `body`.
  mutating func with<Result>(
    _ sizes: [Int], _ body: ([UnsafeMutablePointer<Float>]) -> Result
  ) -> Result {
    // Rounded so that every buffer starts on a cache line's multiple of floats.
    let rounded = sizes.map { ($0 + 15) / 16 * 16 }
    let total = rounded.reduce(0, +)
    if storage.count < total { storage = [Float](repeating: 0, count: total) }
    return storage.withUnsafeMutableBufferPointer { buffer in
      guard let base = buffer.baseAddress else { preconditionFailure("a pass without activations") }
      var offset = 0
      return body(
        rounded.map { size in
          defer { offset += size }
          return base + offset
        })
    }
  }
}

extension LlamaModel {
  /// One row of the batch: which span and which of its tokens.
  private struct Row {
    let span: Int
    let position: Int
    let token: Int32
  }

  /// Computes the KV of every token in `spans`, writes it to the pool, and returns the logits of the
  /// spans that want them, in order.
  ///
  /// - Parameters:
  ///   - pool: The first byte of `[block][layer][K|V][kvHead][token][headSize]`. Every block that a
  ///     span lists must hold the KV of all positions before the span.
  /// - Returns: One array of `vocabularySize` logits for each span with `wantsLogits`; none at all on
  ///   ranks above 0.
  public func forward(_ spans: [SequenceSpan], pool: UnsafeMutableRawPointer) -> [[Float]] {
    let rows = spans.enumerated().flatMap { index, span in
      span.tokens.enumerated().map {
        Row(span: index, position: span.position + $0.offset, token: $0.element)
      }
    }
    guard !rows.isEmpty else { return [] }
    let contextEnd = (rows.map(\.position).max() ?? 0) + 1
    coverPositions(contextEnd)
    let (width, hidden) = (configuration.embeddingSize, shard.hidden.count)
    let mixedWidth = shard.heads.count * configuration.headSize
    let inputWidth = mixedWidth + 2 * shard.kvHeads.count * configuration.headSize
    let m = rows.count
    let sizes = [m * width, m * width, m * inputWidth, m * mixedWidth, m * hidden, m * hidden]
    return scratch.with(sizes) { buffers in
      let (x, normed, qkv, mixed) = (buffers[0], buffers[1], buffers[2], buffers[3])
      let (gate, up) = (buffers[4], buffers[5])
      for (index, row) in rows.enumerated() { embed(row.token, into: x + index * width) }
      for (index, layer) in layers.enumerated() {
        for row in 0..<m {
          Kernels.rmsNorm(
            x + row * width, layer.attentionNorm, count: width,
            epsilon: configuration.normEpsilon, into: normed + row * width)
        }
        layer.attentionInput.multiply(normed, count: m, into: qkv, team: team)
        rotateAndStore(rows, spans, qkv, stride: inputWidth, layer: index, pool: pool)
        attend(rows, spans, qkv, stride: inputWidth, layer: index, pool: pool, into: mixed)
        layer.attentionOutput.multiply(mixed, count: m, into: normed, team: team)
        reducer.sum(normed, count: m * width)
        Kernels.add(x, normed, count: m * width)
        for row in 0..<m {
          Kernels.rmsNorm(
            x + row * width, layer.mlpNorm, count: width, epsilon: configuration.normEpsilon,
            into: normed + row * width)
        }
        layer.gate.multiply(normed, count: m, into: gate, team: team)
        layer.up.multiply(normed, count: m, into: up, team: team)
        team.run(m, grain: 8) { range in
          Kernels.siluMultiply(
            gate + range.lowerBound * hidden, up + range.lowerBound * hidden,
            count: range.count * hidden)
        }
        layer.down.multiply(gate, count: m, into: normed, team: team)
        reducer.sum(normed, count: m * width)
        Kernels.add(x, normed, count: m * width)
      }
      return logits(of: spans, x, into: normed)
    }
  }

  private func embed(_ token: Int32, into output: UnsafeMutablePointer<Float>) {
    precondition(
      token >= 0 && Int(token) < configuration.vocabularySize, "token \(token) is not in the model")
    let stride = embedding.byteCount / configuration.vocabularySize
    WeightLoader.dequantise(
      embedding, at: file.pointer(to: embedding) + Int(token) * stride,
      count: configuration.embeddingSize, into: output)
  }

  /// Applies the rotary position to queries and keys, and puts keys and values into the pool.
  private func rotateAndStore(
    _ rows: [Row], _ spans: [SequenceSpan], _ qkv: UnsafeMutablePointer<Float>, stride: Int,
    layer: Int, pool: UnsafeMutableRawPointer
  ) {
    let size = configuration.headSize
    let (heads, kvHeads) = (shard.heads.count, shard.kvHeads.count)
    let keysAt = heads * size
    let valuesAt = keysAt + kvHeads * size
    cosines.withUnsafeBufferPointer { cosines in
      sines.withUnsafeBufferPointer { sines in
        for (index, row) in rows.enumerated() {
          let line = qkv + index * stride
          let cosine = cosines.baseAddress! + row.position * size / 2
          let sine = sines.baseAddress! + row.position * size / 2
          for head in 0..<heads + kvHeads {
            Kernels.rope(line + head * size, cosines: cosine, sines: sine, headSize: size)
          }
          let block = Int(spans[row.span].blocks[row.position / layout.tokensPerBlock])
          let inBlock = row.position % layout.tokensPerBlock * size * 4
          let base = pool + block * layout.blockBytes + inBlock
          for head in 0..<kvHeads {
            memcpy(
              base + layout.offset(layer: layer, plane: 0, head: head),
              line + keysAt + head * size, size * 4)
            memcpy(
              base + layout.offset(layer: layer, plane: 1, head: head),
              line + valuesAt + head * size, size * 4)
          }
        }
      }
    }
  }

  private func attend(
    _ rows: [Row], _ spans: [SequenceSpan], _ qkv: UnsafeMutablePointer<Float>, stride: Int,
    layer: Int, pool: UnsafeMutableRawPointer, into output: UnsafeMutablePointer<Float>
  ) {
    let contextEnd = (rows.map(\.position).max() ?? 0) + 1
    let heads = shard.heads.count
    let kvHeads = shard.kvHeads.count
    let size = configuration.headSize
    let scale = 1 / Float(size).squareRoot()
    // Where each block's rows of each head are: [span][kvHead][block], keys and values.
    var firsts: [Int] = []
    var keys: [UnsafePointer<Float>?] = []
    var values: [UnsafePointer<Float>?] = []
    for span in spans {
      firsts.append(keys.count)
      let blocks =
        (span.position + span.tokens.count + layout.tokensPerBlock - 1)
        / layout.tokensPerBlock
      for head in 0..<kvHeads {
        for block in span.blocks[..<blocks] {
          let base = UnsafeRawPointer(pool + Int(block) * layout.blockBytes)
          keys.append(
            (base + layout.offset(layer: layer, plane: 0, head: head))
              .assumingMemoryBound(to: Float.self))
          values.append(
            (base + layout.offset(layer: layer, plane: 1, head: head))
              .assumingMemoryBound(to: Float.self))
        }
      }
    }
    keys.withUnsafeBufferPointer { keys in
      values.withUnsafeBufferPointer { values in
        team.run(rows.count * heads, grain: 8) { items in
          let scores = UnsafeMutablePointer<Float>.allocate(capacity: contextEnd)
          defer { scores.deallocate() }
          for item in items {
            let (index, head) = (item / heads, item % heads)
            let row = rows[index]
            let span = spans[row.span]
            let blocks =
              (span.position + span.tokens.count + layout.tokensPerBlock - 1)
              / layout.tokensPerBlock
            let first = firsts[row.span] + head / (heads / kvHeads) * blocks
            Kernels.attend(
              qkv + index * stride + head * size, keys: keys.baseAddress! + first,
              values: values.baseAddress! + first, count: row.position + 1,
              tokensPerBlock: layout.tokensPerBlock, headSize: size, scale: scale,
              scores: scores, into: output + index * heads * size + head * size)
          }
        }
      }
    }
  }

  private func logits(
    of spans: [SequenceSpan], _ x: UnsafeMutablePointer<Float>,
    into normed: UnsafeMutablePointer<Float>
  ) -> [[Float]] {
    guard let head else { return [] }
    let width = configuration.embeddingSize
    var wanted = 0
    var row = 0
    for span in spans {
      row += span.tokens.count
      guard span.wantsLogits, !span.tokens.isEmpty else { continue }
      Kernels.rmsNorm(
        x + (row - 1) * width, outputNorm, count: width, epsilon: configuration.normEpsilon,
        into: normed + wanted * width)
      wanted += 1
    }
    guard wanted > 0 else { return [] }
    var flat = [Float](repeating: 0, count: wanted * configuration.vocabularySize)
    head.multiply(normed, count: wanted, into: &flat, team: team)
    return (0..<wanted).map {
      Array(flat[$0 * configuration.vocabularySize..<($0 + 1) * configuration.vocabularySize])
    }
  }
}
