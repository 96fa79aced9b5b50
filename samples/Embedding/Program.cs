// A virtual machine in a program of one's own: a command in the guest reads a device of this program's.
using Bunraku;
using Bunraku.Engines.X86;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Sessions;

int reads = 0;
await using Vm vm = new VmBuilder(KnownEngines.All)
{
    Command = ["devmem", $"{Thermometer.Address}", "8"],
    Output = Console.OpenStandardOutput(),
    Parts = [new Thermometer(21)],
    OnExit = exit => reads += exit is { Reason: ExitReason.Mmio, IsWrite: false, Address: Thermometer.Address } ? 1 : 0,
}.Build();
VmResult result = await vm.RunAsync();
Console.WriteLine($"status {result.ExitStatus}, {reads} read, engine {vm.EngineName}");
return result.ExitStatus;

/// <summary>A device: a byte in guest-physical memory that says how warm it is.</summary>
internal sealed class Thermometer(byte degrees) : IBoardPart, IMmioDevice
{
    public const ulong Address = 0xFED9_1000;

    public void AttachTo(IBoard board) => board.Machine.Mmio.Add(Address, 8, this, new DeviceLock("thermometer"));

    public ulong ReadMmio(ulong offset, int size) => degrees;

    public void WriteMmio(ulong offset, int size, ulong value)
    {
    }
}
