internal import KVLayout
public import RemoteG2Core

/// How a plan travels between the ranks of one group, which run the same build.
extension StepPlan {
  public func write(to writer: inout ByteWriter) {
    writer.integer(sequence)
    writer.bool(isLast)
    writer.list(orders) { $0.order($1) }
    writer.list(spans) { writer, span in
      writer.integer(Int64(span.position))
      writer.bool(span.wantsLogits)
      writer.numbers(span.tokens)
      writer.numbers(span.blocks)
    }
    writer.list(digests) { writer, order in
      writer.integer(Int64(order.tokens))
      writer.numbers(order.blocks)
    }
  }

  public init(from reader: inout ByteReader) throws(WireError) {
    sequence = try reader.integer()
    isLast = try reader.bool()
    orders = try reader.all(9) { reader throws(WireError) in try reader.order() }
    spans = try reader.all(17) { reader throws(WireError) in
      let position = Int(try reader.integer(Int64.self))
      let wantsLogits = try reader.bool()
      return SequenceSpan(
        tokens: try reader.numbers(), position: position, blocks: try reader.numbers(),
        wantsLogits: wantsLogits)
    }
    digests = try reader.all(12) { reader throws(WireError) in
      let tokens = Int(try reader.integer(Int64.self))
      return KVDigestOrder(blocks: try reader.numbers(), tokens: tokens)
    }
  }
}

extension ByteWriter {
  fileprivate mutating func numbers(_ values: [Int32]) { list(values) { $0.integer($1) } }
}

extension ByteReader {
  fileprivate mutating func numbers() throws(WireError) -> [Int32] {
    try all(4) { reader throws(WireError) in try reader.integer() }
  }
}
