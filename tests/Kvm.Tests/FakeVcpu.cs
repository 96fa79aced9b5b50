using System.Runtime.InteropServices;
using Bunraku.Engine.Kvm;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Kvm.Tests;

/// <summary>A KVM descriptor whose answers a test writes. State requests keep what was set; KVM_RUN takes the next step of the script.</summary>
internal sealed unsafe class FakeVcpu : KvmFile
{
    public const int RunSize = 12288, IoData = 4096;

    public delegate long RunStep(KvmRun* run);

    private readonly Dictionary<uint, byte[]> _state = []; // by the code of the request that sets it
    private readonly Dictionary<uint, ulong> _msrs = [];
    private readonly GuestMemory _memory = new(1 << 20);

    /// <param name="apics">The kernel holds the local APIC.</param>
    /// <param name="posted">The VM's ring of posted writes.</param>
    /// <param name="nested">Bytes that KVM_GET_NESTED_STATE may fill.</param>
    public FakeVcpu(CpuModel? model = null, KvmApics? apics = null, PostedWrites? posted = null, int index = 0, int nested = 0)
    {
        Run = (KvmRun*)NativeMemory.AlignedAlloc(RunSize, 4096);
        new Span<byte>(Run, RunSize).Clear();
        var shared = new KvmShared(_memory, Clock, new KvmCpuid([], model ?? Model), KvmRequest.XsaveSize)
        {
            Apics = apics,
            Posted = posted,
            NestedStateSize = nested,
        };
        Cpu = new KvmCpu(shared, index, this, Run, RunSize);
        Cpu.PowerOn();
        Log.Clear();
    }

    public static CpuModel Model { get; } = new("fake", "GenuineIntel", 6, 1, 1, "Fake", new HashSet<CpuFeature>());

    public KvmRun* Run { get; }
    public KvmCpu Cpu { get; }
    public VirtualClock Clock { get; } = new();
    public Queue<RunStep> Script { get; } = new();
    /// <summary>Names of all requests so far.</summary>
    public List<string> Log { get; } = [];
    /// <summary>Requests that fail, with their error numbers.</summary>
    public Dictionary<string, int> Failing { get; } = [];
    public Dictionary<KvmCapability, int> Capabilities { get; } = [];
    /// <summary>struct kvm_nested_state as KVM keeps it: VMX that is off.</summary>
    public byte[] Nested { get; set; } = [0, 0, 0, 0, 128, 0, 0, 0, .. Enumerable.Repeat((byte)0xFF, 16), .. new byte[104]];

    /// <summary>What was set by a request, to be looked at and changed.</summary>
    public Span<byte> State(KvmRequest set)
    {
        int size = (int)(set.Number >> 16 & 0x3FFF);
        return _state.TryGetValue(set.Number & 0xFF, out byte[]? state) ? state : _state[set.Number & 0xFF] = new byte[size];
    }

    public void Then(RunStep step) => Script.Enqueue(step);

    /// <summary>The next entry ends with this exit.</summary>
    public void ThenExit(KvmExit reason, Action? fill = null) => Then(run =>
    {
        if (run->ImmediateExit != 0) throw new InvalidOperationException("the script wants to run, the engine to return at once");
        run->ExitReason = reason;
        fill?.Invoke();
        return 0;
    });

    /// <summary>The next entry is one that returns at once.</summary>
    public void ThenReturn() =>
        Then(run => run->ImmediateExit != 0 ? -Errno.Interrupted : throw new InvalidOperationException("the guest was to run no further"));

    public override long TryRequest(KvmRequest request, nuint argument)
    {
        Log.Add(request.Name);
        if (Failing.TryGetValue(request.Name, out int errno)) return -errno;
        byte* data = (byte*)argument;
        switch (request.Name)
        {
            case "KVM_RUN": return Script.Count > 0 ? Script.Dequeue()(Run) : throw new InvalidOperationException("nothing more in the script");
            case "KVM_GET_API_VERSION": return 12;
            case "KVM_CHECK_EXTENSION": return Capabilities.GetValueOrDefault((KvmCapability)argument);
            case "KVM_GET_TSC_KHZ": return 2_000_000;
            case "KVM_SET_TSC_KHZ": return -Errno.Invalid;
            case "KVM_HAS_DEVICE_ATTR": return -Errno.NotATypewriter;
            case "KVM_GET_MSRS":
                *(ulong*)(data + 16) = _msrs.GetValueOrDefault(*(uint*)(data + 8));
                return 1;
            case "KVM_SET_MSRS":
                _msrs[*(uint*)(data + 8)] = *(ulong*)(data + 16);
                return 1;
            case "KVM_NMI":
                ((KvmVcpuEvents*)System.Runtime.CompilerServices.Unsafe.AsPointer(
                    ref System.Runtime.InteropServices.MemoryMarshal.GetReference(State(KvmRequest.SetVcpuEvents))))->NmiPending = 1;
                return 0;
            case "KVM_KVMCLOCK_CTRL": return -Errno.Invalid;
            case "KVM_GET_NESTED_STATE":
                if (*(uint*)(data + 4) < Nested.Length) return -Errno.TooBig;
                Nested.CopyTo(new Span<byte>(data, Nested.Length));
                return 0;
            case "KVM_SET_NESTED_STATE":
                Nested = new ReadOnlySpan<byte>(data, *(int*)(data + 4)).ToArray();
                return 0;
            case "KVM_SET_CPUID2" or "KVM_INTERRUPT": return 0;
            default:
                // Structures: the size is in the number, and the code of "set" is one above that of "get".
                int size = (int)(request.Number >> 16 & 0x3FFF);
                if (request.Name.StartsWith("KVM_GET_", StringComparison.Ordinal))
                    _state.GetValueOrDefault((request.Number & 0xFF) + 1, new byte[size]).CopyTo(new Span<byte>(data, size));
                else _state[request.Number & 0xFF] = new ReadOnlySpan<byte>(data, size).ToArray();
                return 0;
        }
    }

    public override void Dispose()
    {
    }
}
