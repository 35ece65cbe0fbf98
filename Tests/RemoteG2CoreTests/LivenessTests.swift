import RemoteG2Core
import Testing

@Suite struct `A node's liveness` {
  private static func at(_ seconds: Int) -> LocalInstant {
    LocalInstant(nanoseconds: Int64(seconds) * 1_000_000_000)
  }

  @Test func `names the thread that has not turned for too long, though others do`() {
    var liveness = Liveness()
    for name in ["pull", "serve"] { liveness.turned(name, at: Self.at(1)) }
    #expect(liveness.hanging(at: Self.at(6)) == [])
    liveness.turned("serve", at: Self.at(6))
    #expect(liveness.hanging(at: Self.at(7)) == ["pull"])
    liveness.turned("pull", at: Self.at(8))
    #expect(liveness.hanging(at: Self.at(9)) == [])
  }

  @Test func `does not miss a thread that was told to end`() {
    var liveness = Liveness()
    liveness.turned("pull", at: Self.at(1))
    liveness.ended("pull")
    #expect(liveness.hanging(at: Self.at(100)) == [])
  }
}
