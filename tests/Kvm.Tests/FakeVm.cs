using Bunraku.Engine.Kvm;
using Bunraku.Platform;

namespace Bunraku.Kvm.Tests;

/// <summary>A VM's descriptor whose answers a test writes; without an answer a request returns 0.</summary>
internal sealed class FakeVm : KvmFile
{
    public Dictionary<KvmCapability, int> Capabilities { get; } = [];
    /// <summary>Results by the name of the request.</summary>
    public Dictionary<string, long> Results { get; } = [];
    public List<string> Log { get; } = [];
    /// <summary>Sees the argument of each request.</summary>
    public Action<KvmRequest, nuint>? Observe { get; set; }

    public override long TryRequest(KvmRequest request, nuint argument)
    {
        if (request == KvmRequest.CheckExtension) return Capabilities.GetValueOrDefault((KvmCapability)argument);
        Log.Add(request.Name);
        Observe?.Invoke(request, argument);
        return Results.GetValueOrDefault(request.Name);
    }

    public static FakeVm WithApics()
    {
        var vm = new FakeVm();
        foreach (KvmCapability c in (KvmCapability[])[KvmCapability.SplitIrqChip, KvmCapability.SignalMsi,
            KvmCapability.MultiprocessingState, KvmCapability.X2ApicApi]) vm.Capabilities[c] = 1;
        vm.Capabilities[KvmCapability.InterruptRouting] = 26;
        return vm;
    }

    public override void Dispose()
    {
    }
}
