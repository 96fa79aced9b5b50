using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine;
using Bunraku.Machine.Board;

namespace Bunraku.Cli.Running;

/// <summary>The board around a VM with its guest loaded, as the options say.</summary>
internal sealed class GuestMachine : IDisposable
{
    /// <exception cref="CommandLine.UsageException">An unknown guest.</exception>
    /// <exception cref="CannotStartException">A file is missing, is no kernel or does not fit.</exception>
    public GuestMachine(VirtualMachine vm, RunOptions options, GuestOutput output)
    {
        if (options.Kernel is not { } kernel) throw new CannotStartException("this build has no guests of its own; give a kernel with --kernel");
        try
        {
            var request = new BootRequest(vm.Memory, vm.Model, E820.Build(vm.Memory), BootFile.Read(kernel, "kernel"), kernel)
            {
                Initrd = options.Initrd is { } initrd ? BootFile.Read(initrd, "initrd") : default,
                InitrdName = options.Initrd ?? "",
                CommandLine = options.Append ?? "",
                RsdpAddress = MemoryLayout.Rsdp,
            };
            vm.Cpus[0].Cpu.WriteState(KernelLoader.Load(request));
        }
        catch (BootException e)
        {
            throw new CannotStartException(e.Message, e);
        }
    }

    public int? CommandStatus => null;

    public static CpuModel ParseModel(string? text) => throw new CannotStartException("no processor model");

    public void Send(ReadOnlySpan<byte> bytes)
    {
    }

    public void Dispose()
    {
    }
}
