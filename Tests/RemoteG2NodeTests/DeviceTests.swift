import Foundation
import NodeTesting
import OSThreads
import RemoteG2Core
import RemoteG2Library
import RemoteG2Node
import Synchronization
import Testing

/// A device whose memory is this process's, which can fail, and be watched.
private final class FakeDevice: @unchecked Sendable {
  // @unchecked: set before copies, by the thread that orders them.
  let mapped = Guarded<[(base: UInt, isReadOnly: Bool)]>([])
  var fails = false
  var duringCopy: () -> Void = {}
  private(set) var copies: [PageCopy] = []

  var device: PageDevice {
    PageDevice(
      map: { base, _, isReadOnly in
        // What is registered, and let go, must be there all the while.
        OSThread.nap(.milliseconds(20))
        _ = base.load(as: UInt8.self)
        self.mapped.withLock { $0.append((UInt(bitPattern: base), isReadOnly)) }
        return true
      },
      unmap: { base in
        _ = base.load(as: UInt8.self)
        self.mapped.withLock { $0.removeAll { $0.base == UInt(bitPattern: base) } }
      },
      copy: { copies, isToDevice in
        self.copies += copies
        self.duringCopy()
        guard !self.fails else { return false }
        for copy in copies {
          for row in 0..<copy.rows {
            let (near, far) = (
              copy.device + row * copy.deviceStride, copy.host + row * copy.hostStride
            )
            memcpy(isToDevice ? near : far, isToDevice ? far : near, copy.bytes)
          }
        }
        return true
      })
  }
}

@Suite(.serialized) struct `An engine whose pages are a device's` {
  private static let keys = (0..<4).map { BlockKey(high: 91, low: UInt64($0)) }
  private static func content(_ place: Int) -> UInt64 { 0x5000 + UInt64(place) }
  /// Four blocks, and no more.
  private static let memory = 4 * NodeEngine.layers * NodeEngine.page

  private static func saved(_ node: TestNode, _ device: FakeDevice) throws -> NodeEngine {
    let engine = try NodeEngine(node.socket, device: device.device)
    #expect(engine.comes { engine.engine.isAttached })
    engine.step()
    engine.save(keys, content)
    #expect(comes { node.sealed == 4 })
    return engine
  }

  @Test func `saves and loads by the device's copies, neighbours together, and lets its memory go`()
    throws
  {
    let node = try TestNode("a")
    defer { node.stop() }
    let device = FakeDevice()
    do {
      let engine = try Self.saved(node, device)
      #expect(
        comes {
          device.mapped.withLock { $0.map(\.isReadOnly).sorted { $0 && !$1 } == [true, false] }
        })
      let before = device.copies.count
      #expect(engine.load(Self.keys, into: 8) == 4)
      #expect((0..<4).map { engine.content(8 + $0) } == (0..<4).map(Self.content))
      // Four blocks of three layers, in as many copies as the slots have runs.
      let loads = device.copies[before...]
      #expect(loads.reduce(0) { $0 + $1.rows } == 4 * NodeEngine.layers)
      #expect(loads.contains { $0.rows > 1 })
      #expect(engine.engine.counts.loads == 1)
    }
    #expect(device.mapped.withLock { $0.isEmpty })
  }

  @Test func `reports every block of a load whose copies failed, and none that was not staged`()
    throws
  {
    let node = try TestNode("a")
    defer { node.stop() }
    let device = FakeDevice()
    let engine = try Self.saved(node, device)
    device.fails = true
    #expect(engine.load(Self.keys, into: 8) == 4)
    #expect(engine.errors == (8..<12).map { BlockIndex($0) })
    #expect(engine.engine.counts.loadsFailed == 1)
    let others = (0..<4).map { BlockKey(high: 92, low: UInt64($0)) }
    engine.save(others, Self.content)
    #expect(engine.engine.counts.stagesDropped == 4)
    #expect(engine.comes { node.held == 0 })
    #expect(node.sealed == 4)
    device.fails = false
    engine.save(others, Self.content)
    #expect(comes { node.sealed == 8 })
  }

  @Test func `reports a block whose slot was taken for another while the device copied it`() throws
  {
    let node = try TestNode("a", memoryBytes: Self.memory)
    defer { node.stop() }
    let device = FakeDevice()
    let engine = try Self.saved(node, device)
    let id = RequestID(77)
    engine.engine.newRequest(id, keys: Self.keys)
    // A fraction of the pool's blocks may be pinned at once.
    #expect(engine.comes { engine.engine.match(id, local: 0, most: 3) == .ready(blocks: 3) })
    #expect(engine.engine.bind(id, local: 0, targets: (8..<11).map { BlockIndex($0) }))
    engine.rank.begin(engine.engine.plan(tokens: 0))
    let happened = Mutex(false)
    device.duringCopy = {
      // Its scheduler half dies in the middle of the copy, and another engine's blocks take the slots.
      engine.dropScheduler()
      guard comes({ node.report.pools[0].leases == 0 }),
        let other = try? NodeEngine(node.socket), other.comes({ other.engine.isAttached })
      else { return }
      other.step()
      other.save((0..<4).map { BlockKey(high: 93, low: UInt64($0)) }) { _ in 0xBAD }
      happened.withLock {
        $0 = comes { node.report.pools[0].evicted >= 4 && node.sealed == 4 }
      }
    }
    _ = engine.rank.load()
    #expect(happened.withLock { $0 })
    #expect(engine.rank.takeReport()?.loaded == [.init(request: id, isWhole: false)])
    #expect(engine.rank.takeErrors() == (8..<11).map { BlockIndex($0) })
  }
}
