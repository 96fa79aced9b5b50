using Bunraku.Engines;
using Bunraku.Sessions;

namespace Bunraku.Lab.Paging;

/// <summary>A guest that is a hypervisor, from its start to its end, with somebody who watches it.</summary>
internal static class HypervisorRun
{
    private static readonly TimeSpan s_patience = TimeSpan.FromMinutes(15);

    /// <param name="append">Words for the kernel, beside those that every guest here gets.</param>
    /// <exception cref="SessionException">It cannot run.</exception>
    /// <exception cref="OperationCanceledException">It was ended.</exception>
    public static void Run(IX86Engine engine, NestedVirtualization technique, string kernel, string initrd, int megabytes, PagingWatch watch, string append,
        CancellationToken cancel)
    {
        using Vm vm = new VmBuilder([engine])
        {
            Engine = engine.Name,
            Nested = technique,
            Kernel = kernel,
            Initrd = initrd,
            Memory = (ulong)megabytes << 20,
            NoReboot = true,
            Timeout = s_patience,
            Append = "console=ttyS0 panic=-1 quiet " + append,
            Observers = [watch],
            Nesting = watch,
        }.Build(cancel);
        using CancellationTokenRegistration end = cancel.Register(() => vm.End(HostEnd.Cancelled));
        vm.Start();
        vm.Wait();
        cancel.ThrowIfCancellationRequested();
    }
}
