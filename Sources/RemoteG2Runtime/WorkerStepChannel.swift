package import Collectives
internal import Foundation
package import RemoteG2Core
package import RemoteG2Engine

extension WireCoder where Value: Codable {
  /// Both ends are the same program of the same build, so no version travels.
  package static var json: WireCoder {
    WireCoder(
      encode: { value in
        do { return Array(try JSONEncoder().encode(value)) } catch {
          preconditionFailure("a step's message cannot be written: \(error)")
        }
      },
      decode: { bytes in
        do { return try JSONDecoder().decode(Value.self, from: Data(bytes)) } catch {
          preconditionFailure("a step's message cannot be read: \(error)")
        }
      })
  }
}

/// A worker's own channel: to itself, or to its group.
package typealias WorkerStepChannel = ProcessStepChannel<StepPlan, RankReport>

extension WorkerStepChannel {
  package convenience init(_ group: MPIGroup?, limits: Limits) {
    self.init(group, plans: .json, reports: .json, limits: limits)
  }
}
