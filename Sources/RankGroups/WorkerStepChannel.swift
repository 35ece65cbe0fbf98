package import Collectives
package import RemoteG2Core
package import RemoteG2Engine

extension FrameCoder {
  /// Both ends are the same program of the same build: bytes that cannot be read are our bug.
  private init(
    write: @escaping @Sendable (inout ByteWriter, Value) -> Void,
    read: @escaping @Sendable (inout ByteReader) throws(WireError) -> Value
  ) {
    self.init(
      encode: { value in
        var writer = ByteWriter(capacity: 1024)
        write(&writer, value)
        return writer.bytes
      },
      decode: { bytes in
        var reader = ByteReader(bytes)
        do throws(WireError) {
          let value = try read(&reader)
          try reader.end()
          return value
        } catch { preconditionFailure("a step's message cannot be read: \(error)") }
      })
  }
}

extension FrameCoder<StepPlan> {
  package static var plans: FrameCoder {
    FrameCoder(
      write: { $1.write(to: &$0) },
      read: { reader throws(WireError) in try StepPlan(from: &reader) })
  }
}

extension FrameCoder<RankReport> {
  package static var reports: FrameCoder {
    FrameCoder(
      write: { $0.report($1) }, read: { reader throws(WireError) in try reader.report() })
  }
}

/// A worker's own channel: to itself, or to its group.
package typealias WorkerStepChannel = ProcessStepChannel<StepPlan, RankReport>

extension WorkerStepChannel {
  package convenience init(_ group: MPIGroup?, limits: Limits) {
    self.init(group, plans: .plans, reports: .reports, limits: limits)
  }
}
