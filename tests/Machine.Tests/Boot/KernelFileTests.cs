using System.Buffers.Binary;
using System.Diagnostics;
using System.IO.Pipes;
using System.Text;
using Bunraku.Engines;
using Bunraku.Machine.Board;

namespace Bunraku.Machine.Tests;

/// <summary>Files that cannot be booted get one clear line.</summary>
public sealed class KernelFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-files").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private static string ErrorOf(Action action)
    {
        string message = Assert.Throws<BootException>(action).Message;
        Assert.DoesNotContain('\n', message);
        return message;
    }

    private static string ErrorOf(byte[] kernel, ulong memorySize = 64 << 20, byte[]? initrd = null, string commandLine = "")
    {
        using var memory = new GuestMemory(MemoryLayout.Regions(memorySize));
        return ErrorOf(() =>
            KernelLoader.Load(new(memory, LoadersOnQemuTests.Model(CpuFeature.Lm), E820.Build(memory), kernel, "k")
            {
                Modules = initrd is null ? []
            : [new(initrd, "initrd")],
                CommandLine = commandLine
            }));
    }

    public static TheoryData<string, byte[]> Others => new()
    {
        { "the file is empty", [] },
        { "zeros", new byte[5000] },
        { "text", "Hello\nworld\n"u8.ToArray() },
        { "a script", "#!/bin/sh\n"u8.ToArray() },
        { "gzip-compressed", [0x1F, 0x8B, 8, 0] },
        { "xz-compressed", [0xFD, 0x37, 0x7A, 0x58, 0x5A, 0] },
        { "zstd-compressed", [0x28, 0xB5, 0x2F, 0xFD] },
        { "cpio archive (an initial RAM disk?", InitramfsBuilder.Build([], new(), GuestConsole.Shell, "t") },
        { "AArch64", [.. new byte[0x38], .. "ARMd"u8] },
        { "boot sector", [.. new byte[0x1FE], 0x55, 0xAA] },
        { "truncated ELF", "\x7F"u8.ToArray().Concat("ELF\x02\x01"u8.ToArray()).ToArray() },
        { "shared object or position-independent executable for x86-64", SyntheticKernels.Elf(type: 3) },
        { "executable for AArch64", SyntheticKernels.Elf(machine: 183) },
        { "relocatable object for x86-64", SyntheticKernels.Elf(type: 1) },
        { "without a PVH note or a multiboot header", SyntheticKernels.Elf() },
    };

    [Theory]
    [MemberData(nameof(Others))]
    public void What_is_no_kernel_is_named(string expected, byte[] file) => Assert.Contains(expected, ErrorOf(file));

    [Fact]
    public void The_hosts_own_programs_are_no_kernels()
    {
        Assert.Contains("shared object or position-independent executable for x86-64", ErrorOf(File.ReadAllBytes("/bin/ls")));
        Assert.Contains("executable for x86-64", ErrorOf(File.ReadAllBytes("/bin/busybox")));
    }

    [Fact]
    public void Files_that_cannot_be_read_are_named()
    {
        string missing = Path.Combine(_folder, "none"), empty = Path.Combine(_folder, "empty");
        File.WriteAllBytes(empty, []);
        Assert.Equal($"kernel {missing}: no such file", ErrorOf(() => BootFile.Read(missing, "kernel", 64 << 20)));
        Assert.Equal($"kernel {missing}/x: no such file", ErrorOf(() => BootFile.Read(missing + "/x", "kernel", 64 << 20)));
        Assert.Equal($"initrd {empty}: the file is empty", ErrorOf(() => BootFile.Read(empty, "initrd", 64 << 20)));
        Assert.Equal($"kernel {_folder}: is a directory, not a file", ErrorOf(() => BootFile.Read(_folder, "kernel", 64 << 20)));
    }

    [Fact]
    public void Every_truncation_of_a_kernel_is_refused()
    {
        foreach (byte[] kernel in SyntheticKernels.All)
        {
            // A bzImage counts its size in paragraphs of 16 bytes, and files end inside the last one.
            bool linux = KernelLoader.Detect(kernel, "k") == BootProtocol.Linux;
            for (int length = 0; length < (linux ? kernel.Length - 15 : kernel.Length); length++)
            {
                string message = ErrorOf(kernel[..length]);
                Assert.StartsWith("k: ", message);
            }
        }
    }

    [Fact]
    public void A_bzImage_may_end_inside_its_last_paragraph()
    {
        byte[] kernel = SyntheticKernels.BzImage();
        using var memory = new GuestMemory(64 << 20);
        for (int missing = 1; missing < 16; missing++)
            KernelLoader.Load(new(memory, LoadersOnQemuTests.Model(CpuFeature.Lm), E820.Build(memory), kernel[..^missing], "k"));
        Assert.Contains("truncated", ErrorOf(kernel[..^16]));
    }

    [Fact]
    public void A_linux_kernel_takes_one_initrd()
    {
        using var memory = new GuestMemory(64 << 20);
        BootModule module = new(new byte[16], "m");
        Assert.Contains("one initrd",
            ErrorOf(() =>
            KernelLoader.Load(new(memory, LoadersOnQemuTests.Model(CpuFeature.Lm), E820.Build(memory), SyntheticKernels.BzImage(),
            "k")
            { Modules = [module, module] })));
    }

    [Fact]
    public void A_requirement_of_a_multiboot_header_that_nobody_knows_is_refused() =>
        Assert.Contains("requires features 0x8 ", ErrorOf(SyntheticKernels.MultibootElf(flags: 3 | 8)));

    [Fact]
    public void A_segment_in_ROM_that_is_more_than_headers_is_refused()
    {
        Assert.Contains("no usable RAM", ErrorOf(SyntheticKernels.HeadersFirst(inRom: 1)));
        using var memory = new GuestMemory(64 << 20);
        KernelLoader.Load(new(memory, LoadersOnQemuTests.Model(CpuFeature.Lm), E820.Build(memory), SyntheticKernels.HeadersFirst(), "k"));
    }

    [Fact]
    public void A_multiboot_2_kernel_is_named() =>
        Assert.Contains("multiboot 2", ErrorOf([0xD6, 0x50, 0x52, 0xE8, 0, 0, 0, 0, 16, 0, 0, 0, 0x1A, 0xAF, 0xAD, 0x17, .. new byte[60]]));

    [Fact]
    public void Files_without_an_end_are_refused()
    {
        Assert.Equal("kernel /dev/zero: is a device, not a file", ErrorOf(() => BootFile.Read("/dev/zero", "kernel", 64 << 20)));
        string large = Path.Combine(_folder, "large");
        using (FileStream file = File.Create(large)) file.SetLength((64 << 20) + 1);
        Assert.StartsWith($"initrd {large}: has more than 64 MiB", ErrorOf(() => BootFile.Read(large, "initrd", 64 << 20)));
        // What a shell gives for <(command).
        using Process endless = Process.Start(new ProcessStartInfo("cat", ["/dev/zero"]) { RedirectStandardOutput = true })!;
        var pipe = (PipeStream)endless.StandardOutput.BaseStream;
        string path = $"/proc/self/fd/{pipe.SafePipeHandle.DangerousGetHandle()}";
        Assert.StartsWith($"module {path}: has more than 64 MiB", ErrorOf(() => BootFile.Read(path, "module", 64 << 20)));
        endless.Kill();
        endless.WaitForExit();
    }

    [Fact]
    public void A_pipe_is_read_to_its_end()
    {
        using Process process = Process.Start(new ProcessStartInfo("sh", ["-c", "printf one; sleep 0.1; printf two"]) { RedirectStandardOutput = true })!;
        var pipe = (PipeStream)process.StandardOutput.BaseStream;
        Assert.Equal("onetwo"u8, BootFile.Read($"/proc/self/fd/{pipe.SafePipeHandle.DangerousGetHandle()}", "initrd", 64 << 20));
        process.WaitForExit();
    }

    [Fact]
    public void A_file_beside_the_kernel_is_read_anew_each_time_and_must_be_the_same()
    {
        string path = Path.Combine(_folder, "initrd");
        byte[] bytes = new byte[(2 << 20) + 17];
        new Random(1).NextBytes(bytes);
        File.WriteAllBytes(path, bytes);
        BootContent content = BootFile.Open(path, "initrd", 64 << 20);
        for (int round = 0; round < 2; round++)
        {
            using var all = new MemoryStream();
            content.Read((offset, piece) =>
            {
                Assert.Equal((ulong)all.Length, offset);
                all.Write(piece);
            });
            Assert.Equal(bytes, all.ToArray());
        }
        File.SetLastWriteTimeUtc(path, DateTime.UtcNow.AddHours(1));
        Assert.StartsWith($"initrd {path}: the file was changed while the machine used it", ErrorOf(() => content.Read((_, _) => { })));
        File.AppendAllText(path, "x");
        Assert.StartsWith($"initrd {path}: the file was changed while the machine used it", ErrorOf(() => content.Read((_, _) => { })));
        File.Delete(path);
        Assert.Equal($"initrd {path}: no such file", ErrorOf(() => content.Read((_, _) => { })));
    }

    [Theory]
    [InlineData("a", "a")]
    [InlineData("a b c,d", "a b c", "d")]
    [InlineData("a x,,y,,,b", "a x,y,", "b")]
    [InlineData("a,", "a", "")]
    public void A_list_of_modules_is_split_at_single_commas(string list, params string[] texts) => Assert.Equal(texts, BootModule.SplitList(list));

    [Theory]
    [InlineData("file", "file", "")]
    [InlineData("file a b", "file", "a b")]
    [InlineData("file  a ", "file", " a ")]
    public void A_modules_name_ends_at_the_first_space(string text, string path, string arguments) => Assert.Equal((path, arguments), BootModule.Parse(text));

    [Fact]
    public void Memory_that_is_too_small_says_how_much_is_needed()
    {
        byte[] kernel = SyntheticKernels.BzImage(load: 16 << 20, initSize: 40 << 20);
        Assert.EndsWith("at least 56 MiB is needed", ErrorOf(kernel, 32 << 20));
        using var enough = new GuestMemory(56 << 20);
        KernelLoader.Load(new(enough, LoadersOnQemuTests.Model(CpuFeature.Lm), E820.Build(enough), kernel, "k"));
    }

    [Fact]
    public void An_initrd_that_does_not_fit_says_so_and_how_much_is_needed()
    {
        byte[] kernel = SyntheticKernels.BzImage(load: 1 << 20, initSize: 55 << 20), initrd = new byte[(10 << 20) + 1];
        Assert.Contains("initrd of 11 MiB does not fit beside the kernel: the machine has 64 MiB of memory, at least 67 MiB is needed",
            ErrorOf(kernel, 64 << 20, initrd));
        using var enough = new GuestMemory(67 << 20);
        KernelLoader.Load(new(enough, LoadersOnQemuTests.Model(CpuFeature.Lm), E820.Build(enough), kernel, "k") { Modules = [new(initrd, "initrd")] });
        // No amount of memory helps where the kernel's own limit is the reason.
        byte[] low = SyntheticKernels.BzImage(load: 1 << 20, initSize: 55 << 20, initrdMaximum: (60 << 20) - 1);
        Assert.Contains("the kernel takes it only between 0x3800000 and 0x3c00000", ErrorOf(low, 512 << 20, initrd));
    }

    [Fact]
    public void A_command_line_longer_than_the_kernel_takes_is_refused() =>
        Assert.Contains("the command line has 2048 bytes, this kernel takes 2047", ErrorOf(SyntheticKernels.BzImage(), commandLine: new string('x', 2048)));

    [Fact]
    public void An_initrd_lies_below_the_kernels_limit_and_is_where_the_parameters_say()
    {
        byte[] initrd = Encoding.ASCII.GetBytes("the initial ram disk");
        using var memory = new GuestMemory(128 << 20);
        CpuState state =
            KernelLoader.Load(new(memory, LoadersOnQemuTests.Model(CpuFeature.Lm), E820.Build(memory), SyntheticKernels.BzImage(initrdMaximum: 0x5FF_FFFF),
            "k")
            { Modules = [new(initrd, "initrd")], RsdpAddress = 0xE0000 });
        byte[] parameters = new byte[4096], there = new byte[initrd.Length];
        Assert.True(memory.Read(state.Gpr[6], parameters));
        uint address = BinaryPrimitives.ReadUInt32LittleEndian(parameters.AsSpan(0x218));
        Assert.InRange(address, 0x100000u, 0x6000000u - (uint)initrd.Length);
        Assert.True(memory.Read(address, there));
        Assert.Equal(initrd, there);
        Assert.Equal((uint)initrd.Length, BinaryPrimitives.ReadUInt32LittleEndian(parameters.AsSpan(0x21C)));
        Assert.Equal(0xE0000ul, BinaryPrimitives.ReadUInt64LittleEndian(parameters.AsSpan(0x70)));
    }
}
